from pathlib import Path

import pytest

from darla.config import (
    NOT_IDENTITY,
    Config,
    GateConfig,
    OptimisationConfig,
    config_identity,
    config_paths,
    differences,
    load_config,
    schema,
    to_yaml,
)
from darla.errors import ConfigError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return path

    return write


def faults(path: Path | str, *words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, words)
    return str(caught.value).splitlines()


def test_the_defaults_are_a_valid_configuration(write):
    assert load_config(write("name: x")) == Config(name="x")


def test_a_part_of_a_section_keeps_the_defaults_of_its_place(write):
    config = load_config(
        write("name: x\nvision: {dae: {optimisation: {images: 1000}}}"),
        ["vision.vae.optimisation.images=2000"],
    )
    assert config.vision.dae.optimisation == OptimisationConfig(images=1000, learning_rate=1e-3)
    assert config.vision.vae.optimisation == OptimisationConfig(images=2000, learning_rate=1e-4)
    assert config.vision.dae.bottleneck == 100


def test_words_override_the_file_and_the_last_one_wins(write):
    path = write("name: x\nvision: {vae: {beta: 2, latents: 16}}")
    config = load_config(
        path,
        ["vision.vae.beta=3", "vision.vae={hidden: 64}", "agents.seeds=[1,2]", "vision.vae.beta=4"],
    )
    assert (config.vision.vae.beta, config.vision.vae.hidden) == (4.0, 64)
    assert config.vision.vae.latents == 16
    assert config.agents.seeds == (1, 2)


def test_a_word_changes_one_place_even_where_the_file_shares_a_section(write):
    path = write("name: x\nvision: {dae: {optimisation: &o {images: 7}}, vae: {optimisation: *o}}")
    config = load_config(path, ["vision.dae.optimisation.images=9"])
    assert config.vision.dae.optimisation.images == 9
    assert config.vision.vae.optimisation.images == 7


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4", "1E-4", "+1e-4"])
def test_numbers_may_be_written_as_one_does(write, text):
    assert load_config(write("name: x"), [f"vision.vae.beta={text}"]).vision.vae.beta == 1e-4


def test_an_integer_is_a_number_and_underscores_group_digits(write):
    config = load_config(write("name: x"), ["vision.vae.beta=2", "frames.count=40_000"])
    assert config.vision.vae.beta == 2.0 and isinstance(config.vision.vae.beta, float)
    assert config.frames.count == 40_000


def test_on_and_off_are_words_and_dates_are_texts(write):
    assert load_config(write("name: x\nvision: {compile: off}")).vision.compile == "off"
    assert load_config(write("name: 2026-01-01")).name == "2026-01-01"


@pytest.mark.parametrize(
    ("word", "fault"),
    [
        ("vision.betta=2", "unknown key 'vision.betta' (did you mean 'vision.vae.beta'?)"),
        ("vision.vae.betta=2", "unknown key 'vision.vae.betta' (did you mean 'vision.vae.beta'?)"),
        ("agent.seeds=[1]", "unknown key 'agent.seeds' (did you mean 'agents.seeds'?)"),
        ("zzzz=1", "unknown key 'zzzz'"),
        ("agents.seeds=[0,1,0]", "agents.seeds names 0 twice; name each once"),
        (
            "agents.perceptions=[darla,own-mine,pixles]",
            "'agents.perceptions[2]' must be one of 'darla', 'fine-tuned', 'entangled', "
            "'beta-vae', 'dae', 'pixels', 'pixels+augmentation', 'domain-randomisation', "
            "'factors', 'random' or own-NAME, not the text 'pixles' (did you mean 'pixels'?)",
        ),
        (
            "vision.seed=4294967296",
            "'vision.seed' must be an integer >= 0 and < 4294967296, not 4294967296",
        ),
        ("vision={1: 2}", "unknown key 'vision.1'"),
        ("frames.policy=''", "'frames.policy' must be a text that is not empty, not the text ''"),
        ("agents.perceptions=[dae,dae]", "agents.perceptions names dae twice; name each once"),
        ("agents.seeds.first=1", "unknown key 'agents.seeds.first'"),
        ("frames.count=many", "'frames.count' must be an integer >= 4, not the text 'many'"),
        ("frames.count=1.5", "'frames.count' must be an integer >= 4, not 1.5"),
        ("frames.count=true", "'frames.count' must be an integer >= 4, not true"),
        ("frames.count=0", "'frames.count' must be an integer >= 4, not 0"),
        ("frames.count=", "'frames.count' must be an integer >= 4, not null"),
        (
            "frames.validation=0.5",
            "'frames.validation' must be a number > 0 and < 0.5, not 0.5",
        ),
        ("vision.vae.beta=.nan", "'vision.vae.beta' must be a number >= 0, not .nan"),
        ("vision.vae.beta=.inf", "'vision.vae.beta' must be a number >= 0, not .inf"),
        (
            "vision.gate.action=wran",
            "'vision.gate.action' must be one of 'stop', 'warn', not the text 'wran' "
            "(did you mean 'warn'?)",
        ),
        ("transfer.random_policy=1", "'transfer.random_policy' must be true or false, not 1"),
        ("agents.seeds=0", "'agents.seeds' must be a list, each an integer >= 0, not 0"),
        (
            "agents.seeds=[]",
            "'agents.seeds' must be a list, each an integer >= 0, not []",
        ),
        ("agents.seeds=[0,-1]", "'agents.seeds[1]' must be an integer >= 0, not -1"),
        ("ray.address=3", "'ray.address' must be a text or null, not 3"),
        (
            "vision.dae.optimisation.gradient_norm=0",
            "'vision.dae.optimisation.gradient_norm' must be a number > 0 or null, not 0",
        ),
        (
            "frames=3",
            "'frames' must be a section with the keys count, policy, epsilon, validation, segment, "
            "shard, seed, not 3",
        ),
        ("frames.count={a: 1}", "'frames.count' must be an integer >= 4, not a section"),
        ("verbose", "'verbose' is no setting; write key=value, such as agents.seeds=[0,1]"),
    ],
)
def test_a_wrong_word_is_told_in_one_line(write, word, fault):
    assert faults(write("name: x"), word) == [fault]


def test_the_same_faults_are_told_of_the_file(write):
    assert faults(write("name: x\nvision: {betta: 2}")) == [
        "unknown key 'vision.betta' (did you mean 'vision.vae.beta'?)"
    ]


def test_all_faults_are_told_at_once(write):
    path = write("nmae: x\nframes: {count: 0, sead: 1}\nagents: {perceptions: [dala]}")
    told = faults(path, "vision.seed=-1", "beta=1")
    assert len(told) == 7
    for part in ("name", "frames.count", "frames.sead", "perceptions[0]", "vision.seed", "beta"):
        assert any(part in line for line in told), part


def test_a_missing_name_says_what_it_is_for(write):
    assert faults(write("")) == ["missing key 'name': Name of the run directory."]


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_a_name_is_no_path(write, name):
    assert len(faults(write(f"name: '{name}'"))) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name: x\nname: y", "line 2: duplicate key 'name'"),
        ("name: x\nvision:\n  seed: 1\n  seed: 2", "line 4: duplicate key 'seed'"),
        ("name: x\nvision: [", "line 2: expected the node content"),
        ("name: x\n\tvision: 1", "line 2: found character '\\t'"),
        ("- 1", "must hold keys and values, not [1]"),
        ("name: !!python/object:os.system x", "line 1: could not determine a constructor"),
    ],
)
def test_yaml_that_cannot_be_read_names_file_and_line(write, text, fault):
    (line,) = faults(write(text))
    assert "experiment.yaml'" in line and fault in line


def test_a_binary_file_is_no_configuration(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in faults(tmp_path / "x.yaml")[0]


def test_a_name_is_looked_up_in_configs(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "my-experiment.yaml").write_text("name: mine")
    monkeypatch.chdir(tmp_path)
    assert load_config("my-experiment").name == "mine"
    assert load_config("my-experiment.yaml").name == "mine"
    assert "my-experiment" in config_paths()
    assert faults("my-experimant") == [
        "no configuration 'my-experimant' (did you mean 'my-experiment'?)"
    ]
    assert "no configuration './my-experiment'" in faults("./my-experiment")[0]
    assert faults(tmp_path) == [f"configuration '{tmp_path}' is a folder; give a YAML file"]


@pytest.mark.parametrize("name", config_paths())
def test_every_shipped_configuration_loads(name):
    assert load_config(name).name == name


@pytest.mark.parametrize("name", ["x", "1e5", "true", "null", "007", "2026-01-01", "1.5"])
def test_yaml_goes_out_and_back_whatever_the_words_look_like(write, name):
    config = load_config(
        write(f"name: '{name}'"), ["vision.vae.beta=1e-7", "vision.compile=on", "ray.address='1'"]
    )
    assert load_config(write(to_yaml(config))) == config


def test_identity_is_everything_but_where_by_whom_and_whether():
    config = Config(name="x")
    words = {"runs": "elsewhere", "ray.address": "auto", "ray.cpus_per_worker": "2"}
    words |= {"vision.pictures": "disk", "vision.gate.action": "stop"}
    words["vision.gate.object_error"] = "0.1"
    assert set(words) == set(NOT_IDENTITY)
    moved = config.model_copy(
        update={
            "runs": "elsewhere",
            "vision": config.vision.model_copy(
                update={"pictures": "disk", "gate": GateConfig(action="stop", object_error=0.1)}
            ),
            "ray": config.ray.model_copy(update={"address": "auto", "cpus_per_worker": 2.0}),
        }
    )
    assert config_identity(moved) == config_identity(config)
    assert differences(config, moved) == {}


def test_differences_name_the_keys(write):
    path = write("name: x")
    a, b = load_config(path), load_config(path, ["vision.vae.beta=2", "agents.seeds=[3]"])
    assert differences(a, b) == {"vision.vae.beta": (1.0, 2.0), "agents.seeds": ([0], [3])}
    assert config_identity(a) != config_identity(b)


def test_a_number_has_one_identity_however_it_is_written(write):
    path = write("name: x")
    one, other = (load_config(path, [f"vision.vae.beta={text}"]) for text in ("2", "2.0"))
    assert config_identity(one) == config_identity(other)


def test_the_schema_tells_everything_of_every_key():
    rows = {row.key: row for row in schema()}
    assert len(rows) == len(schema()) > 60
    assert all(row.allowed and row.description for row in rows.values())
    assert [row.key for row in rows.values() if not row.default] == ["name"]
    assert rows["frames.count"].allowed == "an integer >= 4"
    assert rows["frames.count"].default == "40000"
    assert rows["vision.dae.optimisation.learning_rate"].default == "0.001"
    assert rows["vision.vae.optimisation.learning_rate"].default == "0.0001"


def test_a_configuration_is_a_value():
    config = Config(name="x")
    assert hash(config) == hash(Config(name="x"))
    with pytest.raises(ValueError, match="frozen"):
        config.name = "y"


def test_a_path_may_begin_at_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    words = ["environment.plugin=~/world.py", "frames.policy=~/runs/a/dqn", "shapes.file=~/d.npz"]
    config = load_config(write("name: x\nruns: ~/darla"), words)
    assert config.runs == "/home/ada/darla" and config.shapes.file == "/home/ada/d.npz"
    assert config.environment.plugin == "/home/ada/world.py"
    assert config.frames.policy == "/home/ada/runs/a/dqn"
