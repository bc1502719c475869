import os
import signal
from pathlib import Path

import pytest
import ray

from darla.cluster import ray_session
from darla.config import Config, RayConfig
from darla.errors import ConfigError, DarlaError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, read_jsonl, write_json, write_text
from darla.tuning import make_variants, outcome_table, outcomes, sweep

YAML = "name: tiny\nray: {workers: 1, cpus_per_worker: 0.5}\n"


@pytest.fixture
def variants(tmp_path):
    """Returns variants of a tiny configuration whose runs lie in the test's folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)

    def make(grid=(), seeds=None):
        return make_variants(str(path), [f"runs={tmp_path}"], grid, seeds)

    return make


def test_every_combination_is_a_run_with_a_name_of_its_own(variants):
    made = variants(["vision.vae.beta=[1e-1,4]", "agents.dqn.hidden=[[64,64]]"], "[0,7]")
    assert [variant.config.name for variant in made] == [
        f"tiny-vision.vae.beta-{beta}-agents.dqn.hidden-64-64-seed-{seed}"
        for beta in ("1e-1", "4")
        for seed in (0, 7)
    ]
    last = made[-1].config
    assert last.vision.vae.beta == 4 and last.agents.dqn.hidden == (64, 64)
    assert last.frames.seed == last.vision.seed == 7 and last.agents.seeds == (7,)
    assert made[1].varied == {
        "vision.vae.beta": "1e-1",
        "agents.dqn.hidden": "[64,64]",
        "seed": "7",
    }


@pytest.mark.parametrize(
    ("grid", "seeds", "message"),
    [
        (["vision.vae.beta=4"], None, "'vision.vae.beta=4' is no list of values"),
        (["vision.vae.beta=[]"], None, "is no list of values; write key="),
        ([], "3", "'seed=3' is no list of values"),
        (["vision.vae.betta=[4]"], None, "did you mean 'vision.vae.beta'"),
        (["vision.vae.beta=[4,-1]"], None, "'vision.vae.beta' must be a number >= 0"),
        (["vision.vae.beta=[4,4]"], None, "two trials would be the same run"),
        (["ray.workers=[1,2]"], None, "'ray.workers' cannot vary: all trials of a sweep share"),
        (["runs=[a,b]"], None, "'runs' cannot vary"),
        (["vision.seed=[1]", "vision.seed=[2]"], None, "two trials would be the same run"),
        (["frames.seed=[1,2]"], "[0]", "--seeds sets 'frames.seed' in every trial; leave it out"),
        (["agents.seeds=[[1],[2]]"], "[0]", "--seeds sets 'agents.seeds'"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused(variants, grid, seeds, message):
    with pytest.raises(ConfigError) as caught:
        variants(grid, seeds)
    assert message in str(caught.value)


def test_signs_and_sections_vary_too(variants):
    made = variants(["agents.a3c.value_start=[-1,1,-.5]", "agents.dqn=[{batch: 32, n_step: 1}]"])
    assert [variant.config.name.split("-agents.dqn")[0] for variant in made] == [
        f"tiny-agents.a3c.value-start-{value}" for value in ("minus1", "1", "minus.5")
    ]
    first = made[0].config.agents
    assert first.a3c.value_start == -1.0 and (first.dqn.batch, first.dqn.n_step) == (32, 1)


def test_a_trial_that_was_refused_has_no_results_of_another_configuration(variants, tmp_path):
    (variant,) = variants(["vision.vae.beta=[4]"])
    stale = RunDirectory.open(variant.config.model_copy(update={"suite": "lab-single"}))
    stale.start("vision")
    stale.finish("vision", **facts(objects=0.5))
    write_json(stale.results_json, {"rows": [row(source=8.0, target=6.0)]})
    (found,) = outcomes([variant])
    assert found["visions"] == [] and found["policies"] == []


@pytest.fixture(scope="module")
def cluster():
    with ray_session(RayConfig()):
        yield


@ray.remote
class Worker:
    def answer(self):
        return os.getpid()


def work(config: Config) -> None:
    """Three steps with a worker; seed 1 loses its process after the first, seed 2 never starts."""
    if config.vision.seed == 2:
        raise DarlaError("no room for this\nsecond line")
    run = RunDirectory.open(config)
    done = run.path / "steps.jsonl"
    worker = Worker.options(num_cpus=config.ray.cpus_per_worker).remote()
    while (step := len(read_jsonl(done)) if done.exists() else 0) < 3:
        answer = ray.get(worker.answer.remote())
        append_jsonl(done, [{"step": step, "worker": answer, "folder": os.getcwd()}])
        if config.vision.seed == 1 and step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write_json(run.results_json, {"rows": [row(source=8.0, target=6.0)]})


def row(*, source, target):
    estimate = [None if value is None else {"mean": value} for value in (source, target)]
    names = {"algorithm": "dqn", "perception": "darla"}
    return {**names, "source": estimate[0], "target": estimate[1]}


def facts(**errors):
    latents = {"kl": 12.5, "active_units": 9}
    return {"vae": errors, "latents": latents, "probe": {}, "disentanglement": {}}


def steps(variant) -> list[int]:
    path = Path(variant.config.runs) / variant.config.name / "steps.jsonl"
    lines = read_jsonl(path)
    assert {line["folder"] for line in lines} == {os.getcwd()}, "relative paths stay what they were"
    return [line["step"] for line in lines]


@pytest.mark.timeout(300)
def test_a_trial_that_loses_its_process_goes_on_and_a_repeated_sweep_repeats_nothing(
    cluster, variants, tmp_path, capfd
):
    made = variants(seeds="[0,1,2]")
    failed = sweep(made, work, cpus=0.5, gpus=0.0)
    assert failed == {"tiny-seed-2": "no room for this"}
    assert [steps(variant) for variant in made[:2]] == [[0, 1, 2], [0, 1, 2]]
    assert not (tmp_path / ".tune").exists()
    said = capfd.readouterr().err
    assert "tiny-seed-0: finished" in said and "tiny-seed-2: failed" in said
    assert sweep(made[:2], work, cpus=0.5, gpus=0.0, quiet=True) == {}
    assert [steps(variant) for variant in made[:2]] == [[0, 1, 2], [0, 1, 2]]


def collect(config: Config) -> None:
    """Makes frames where there are none."""
    run = RunDirectory.open(config)
    frames = run.frames / "train-00000.safetensors"
    if not frames.exists():
        write_text(frames, f"made by {config.name}")


def test_trials_take_the_frames_that_another_one_has_made(cluster, variants, tmp_path):
    grid = "vision.vae.beta=[1,4]"
    first, second = variants([grid])
    assert sweep([first], collect, cpus=0.5, gpus=0.0, quiet=True) == {}
    assert sweep([first, second], collect, cpus=0.5, gpus=0.0, quiet=True) == {}
    frames = tmp_path / second.config.name / "frames" / "train-00000.safetensors"
    assert frames.read_text() == f"made by {first.config.name}"


def test_a_trial_that_fits_nowhere_is_refused(cluster, variants):
    with pytest.raises(ConfigError, match="a trial reserves 1000.5 CPUs and this machine has"):
        sweep(variants(seeds="[0]"), work, cpus=1000.0, gpus=0.0)
    with pytest.raises(ConfigError, match="a trial reserves 100 GPUs and this machine has"):
        sweep(variants(seeds="[0]"), work, cpus=0.5, gpus=100.0)


def test_the_table_shows_source_and_vision_and_keeps_the_order_of_the_grid(variants):
    first, second, third = variants(seeds="[0,1,2]")
    for variant, target in ((first, 1.0), (second, None)):
        run = RunDirectory.open(variant.config)
        run.start("vision")
        run.finish("vision", **facts(objects=0.25))
        write_json(run.results_json, {"rows": [row(source=8.0, target=target)]})
    rows = outcomes([first, second, third])
    assert [each["varied"]["seed"] for each in rows] == ["0", "1", "2"]
    (vision,) = rows[0]["visions"]
    assert vision["perception"] == "darla" and vision["object_error"] == 0.25
    assert vision["kl"] == 12.5 and vision["active_units"] == 9
    policy = {"algorithm": "dqn", "perception": "darla", "source": 8.0}
    assert rows[0]["policies"] == [{**policy, "target": 1.0}]
    assert rows[1]["policies"] == [{**policy, "target": None}]
    assert rows[2]["visions"] == rows[2]["policies"] == []
    assert outcome_table(rows).row_count == 3


def test_the_object_error_is_of_what_the_loss_sees(variants):
    (variant,) = variants(seeds="[0]")
    run = RunDirectory.open(variant.config)
    run.start("vision")
    run.finish("vision", **facts(**{"objects": 0.45, "through_dae/objects": 0.125}))
    (vision,) = outcomes([variant])[0]["visions"]
    assert vision["object_error"] == 0.125


def test_every_vision_has_a_line_beside_its_policies(variants):
    (variant,) = variants(seeds="[7]")
    run = RunDirectory.open(variant.config)
    run.start("vision")
    run.finish("vision", **facts(objects=0.25), **{"beta-vae": facts(objects=0.5)})
    policies = [row(source=8.0, target=6.0), {**row(source=3.0, target=2.0), "algorithm": "ec"}]
    policies.append({**row(source=1.0, target=0.5), "perception": "pixels"})
    write_json(run.results_json, {"rows": policies})
    table = outcome_table(outcomes([variant]))
    lines = list(zip(*(column.cells for column in table.columns), strict=True))
    assert [line[:4] for line in lines] == [
        ("7", "darla", "0.25", "12.50"),
        ("", "–", "–", "–"),
        ("", "–", "–", "–"),
        ("", "beta-vae", "0.50", "12.50"),
    ]
    assert [line[-3:] for line in lines] == [
        ("dqn darla", "8.00", "6.00"),
        ("ec darla", "3.00", "2.00"),
        ("dqn pixels", "1.00", "0.50"),
        ("–", "–", "–"),
    ]
