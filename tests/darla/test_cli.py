import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import ClassVar

import pytest

from agents import parallel
from darla import cluster, doctor, jobs, pipeline, plugins, tuning
from darla.cli import app, config_app
from darla.config import Config
from darla.doctor import Check
from darla.errors import ConfigError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, read_json, read_jsonl, write_json, write_text

COMMANDS = tuple(
    f"{group}{each.name}"
    for group, owner in (("", app), ("config ", config_app))
    for each in owner.registered_commands
)


def darla(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        app([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text("name: tiny\nagents: {perceptions: [darla, factors], seeds: [0, 1]}\n")
    return path


class Stages:
    """Stands in for the long work: each stage writes one small file, and may be told to fail."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def _do(self, stage: str) -> None:
        if stage in self.fails:
            raise self.fails.pop(stage)
        self.done.append(stage)

    def walker_of(self, config: Config) -> tuple[object, list[Path]]:
        return "explorer", []

    def collect_frames(
        self, config: Config, run: RunDirectory, *, make_walker: object, quiet: bool
    ) -> dict[str, int]:
        self._do("frames")
        write_json(run.frames / "index.json", {})
        return {"count": config.frames.count}

    def train_vision(self, config: Config, run: RunDirectory, *, quiet: bool) -> dict[str, int]:
        self._do("vision")
        write_text(run.vision / "vision.safetensors", "weights")
        return {"active_units": 10}

    def check_shapes(self, config: Config) -> None:
        """Refuses nothing."""

    def train_shapes(self, config: Config, run: RunDirectory, *, quiet: bool) -> dict[str, int]:
        self._do(f"shapes {config.vision.seed}")
        run.start("shapes")
        run.finish("shapes", seed=config.vision.seed)
        return {"seed": config.vision.seed}

    def summary_table(self, reports: dict[str, dict[str, int]]) -> str:
        return f"table of {len(reports)} reports"

    def train_cell(self, config, run, cell, *, quiet: bool) -> dict[str, int]:
        self._do(cell.id)
        write_text(run.agent(cell.id) / "policy.safetensors", "weights")
        return {"decisions": config.agents.decisions}

    def score_transfer(self, config, run, cells, *, suites, allow_unfinished, quiet: bool) -> None:
        missing = [c.id for c in cells if not (run.agent(c.id) / "policy.safetensors").exists()]
        if missing and not allow_unfinished:
            raise MissingFileError(f"not trained yet: {', '.join(missing)}")
        for suite in suites:
            self._do("transfer" if suite.name == config.suite else suite.name)
        if not run.scores.exists():
            append_jsonl(run.scores, [{"cell": cell.id} for cell in cells])

    def check_contamination(self, config, run, cells, suites) -> None:
        self.checked = [suite.name for suite in suites]

    def keep_frame_digests(self, run: RunDirectory, suites: list) -> None:
        self.digested = [suite.name for suite in suites]

    def verdict(self, found: None, suite: str) -> str:
        return f"contamination of {suite}: none"

    def results_of(self, run: RunDirectory) -> dict[str, int]:
        results = {"episodes": len(read_jsonl(run.scores))}
        protocols = [name for name in self.done if name.startswith("lab-")]
        return results | ({"protocols": dict.fromkeys(protocols, results)} if protocols else {})

    def write_results(self, run: RunDirectory) -> dict[str, int]:
        results = self.results_of(run)
        write_json(run.results_json, results)
        return results

    def write_report(self, runs: list[Path], output: Path) -> None:
        write_text(output, f"<html>{len(runs)}</html>")

    def choose_writer(self, name: str):
        return lambda recordings, output: write_text(output, "<html>replay</html>")

    def choose_cell(self, run: RunDirectory, cell: str | None):
        return types.SimpleNamespace(id="dqn-darla-s0")

    def choose_domains(self, suite, ids: list[str]) -> list[str]:
        return [suite.domain(text).id for text in ids]

    def record_episodes(self, run, suite, cell, domains, **which) -> list:
        return []

    def terminal_table(self, results: dict[str, int]) -> str:
        return f"table of {results['episodes']} episodes"

    def markdown_table(self, results: dict[str, int]) -> str:
        return f"| {results['episodes']} |"


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    fakes = Stages()
    for module, names in {
        "agents.walkers": ("walker_of",),
        "envs.collect": ("collect_frames",),
        "darla.vision.pretrain": ("train_vision",),
        "agents.training": ("train_cell",),
        "benchmarks.transfer": ("score_transfer",),
        "benchmarks.contamination": ("check_contamination", "verdict"),
        "benchmarks.provenance": ("keep_frame_digests",),
        "benchmarks.results": ("results_of", "write_results"),
        "benchmarks.tables": ("terminal_table", "markdown_table"),
        "benchmarks.films": ("choose_writer",),
        "benchmarks.replay": ("choose_cell", "choose_domains", "record_episodes"),
        "benchmarks.report": ("write_report",),
        "darla.vision.shapes_experiment": ("check_shapes", "train_shapes", "summary_table"),
    }.items():
        fake = types.ModuleType(module)
        for name in names:
            setattr(fake, name, getattr(fakes, name))
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(doctor, "check_gl", lambda: Check("OpenGL", "ok", "fake"))
    monkeypatch.setattr(pipeline, "spare_core", lambda config: False)
    return fakes


SALT = "0123456789abcdef\n"
ALL = ["frames", "vision", *(f"dqn-{p}-s{s}" for p in ("darla", "factors") for s in (0, 1))]


class Beside:
    """A second process that did nothing, and remembers how it was started."""

    started: ClassVar[list[list[str]]] = []

    def __init__(self, words: list[str]) -> None:
        self.started.append(words)
        self.ended = False

    def wait(self) -> int:
        return 1

    def terminate(self) -> None:
        self.ended = True


def test_cells_without_vision_train_beside_it_and_what_is_left_is_done_after(
    config, stages, monkeypatch, capsys
):
    monkeypatch.setattr(pipeline, "spare_core", lambda config: True)
    real = subprocess.Popen

    def popen(words: list[str], *others: object, **settings: object) -> object:
        return Beside(words) if "--perception" in words else real(words, *others, **settings)

    monkeypatch.setattr(subprocess, "Popen", popen)
    Beside.started.clear()
    assert darla("run", config) == 0
    (words,) = Beside.started
    assert words[-2:] == ["--perception", "factors"]
    assert "train" in words
    assert stages.done == [*ALL, "transfer"]
    assert "beside it" in capsys.readouterr().err
    darla("run", config)
    assert len(Beside.started) == 1, "the vision is there, nothing waits for it"


@pytest.mark.parametrize("command", [["run", "tiny.yaml"], ["benchmark", "--tier", "smoke"]])
def test_a_run_whose_perceptions_see_through_no_vision_has_no_stage_one(config, stages, command):
    assert darla(*command, "agents.perceptions=[pixels,factors,random]") == 0
    assert "transfer" in stages.done
    assert not {"frames", "vision"} & set(stages.done)


def test_the_second_process_ends_with_the_first(tmp_path):
    program = (
        "import subprocess, sys, time\n"
        "from darla.pipeline import _end_with_parent\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "child = subprocess.Popen(sleep, preexec_fn=_end_with_parent)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from darla.cli import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'ray', 'mujoco', 'numpy', 'pydantic'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Learn to see" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert darla(*command.split(), "--help") == 0
    out = capsys.readouterr().out
    assert f"Example: darla {command}" in out
    assert "--debug" in out


def test_every_example_is_valid(config, stages, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "diagnose", lambda: [])
    (config.parent / "configs").mkdir()
    for name in ("lab", "lab-quick", "lab-study", "benchmark-dev", "shapes-beta4"):
        (config.parent / "configs" / f"{name}.yaml").write_text(f"name: {name}\n")
    (config.parent / "salt.txt").write_text(SALT)
    monkeypatch.setattr(pipeline, "train_side_by_side", pipeline.train)
    monkeypatch.setattr(tuning, "sweep", lambda variants, *_, **__: {})
    monkeypatch.setattr(tuning, "outcomes", lambda variants: list(study_rows(variants)))
    monkeypatch.setattr(jobs, "submit", lambda tree, address, *, pip: "job-1")
    monkeypatch.setattr(jobs, "follow", lambda *_: 0)
    monkeypatch.setattr(cluster, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(parallel, "slots_of", lambda config: 1)
    darla("run", "lab-quick")
    for command in COMMANDS:
        darla(*command.split(), "--help")
        example = capsys.readouterr().out.partition("Example: darla ")[2].split()
        if command == "domains":
            example = example[: example.index("-o")]
        assert darla(*example) == 0, (example, capsys.readouterr().err)


def test_a_benchmark_that_fits_nowhere_is_refused_before_it_leaves_anything(
    config, stages, capsys, monkeypatch
):
    def none(config):
        raise ConfigError("a cell reserves 8.5 CPUs and this machine has 8")

    (config.parent / "configs").mkdir()
    (config.parent / "configs" / "benchmark-dev.yaml").write_text("name: benchmark-dev\n")
    monkeypatch.setattr(cluster, "ray_session", contextlib.nullcontext)
    monkeypatch.setattr(parallel, "slots_of", none)
    assert darla("benchmark", "--tier", "dev") == 2
    assert "reserves 8.5 CPUs" in capsys.readouterr().err
    assert stages.done == [] and not (config.parent / "runs" / "benchmark-dev").exists()


def test_run_does_all_stages_in_order_and_prints_the_table(config, stages, capsys):
    assert darla("run", config) == 0
    assert stages.done == [*ALL, "transfer"]
    out, err = capsys.readouterr()
    assert out == "table of 4 episodes\n"
    assert "report: runs/tiny/report.html" in err
    run = RunDirectory.load(config.parent / "runs" / "tiny")
    assert run.report.exists() and run.finished("report")
    recorded = run.status()["stages"]
    assert recorded["frames"]["facts"] == {"count": 40_000}
    assert list(recorded["train/dqn-darla-s1"]["parents"]) == ["vision/vision.safetensors"]


def test_run_again_repeats_nothing_that_is_finished(config, stages, capsys):
    darla("run", config)
    stages.done.clear()
    assert darla("run", config, "--json", "--quiet") == 0
    assert stages.done == ["transfer"]
    out, err = capsys.readouterr()
    assert json.loads(out[out.index("{") :]) == {"episodes": 4}


@pytest.mark.parametrize("stage", ALL)
def test_run_continues_where_it_was_interrupted(config, stages, stage, capsys):
    stages.fails[stage] = KeyboardInterrupt()
    assert darla("run", config) == 130
    assert "darla: interrupted; repeat the command" in capsys.readouterr().err
    assert stages.done == ALL[: ALL.index(stage)]
    assert darla("run", config) == 0
    assert stages.done == [*ALL, "transfer"]


def test_quiet_says_nothing_but_the_answer(config, stages, capsys):
    assert darla("run", config, "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_the_stages_one_by_one_are_the_run(config, stages, capsys):
    assert darla("transfer", config) == 2
    assert "no run directory 'runs/tiny'" in capsys.readouterr().err
    assert darla("pretrain", config, "--json", "--quiet") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {"frames": {"count": 40_000}, "vision": {"active_units": 10}}
    assert darla("transfer", config) == 2
    assert "not trained yet: dqn-darla-s0" in capsys.readouterr().err
    assert darla("train", config, "--quiet") == 0
    assert darla("transfer", config) == 0
    assert stages.done == [*ALL, "transfer"]


def test_two_processes_never_score_one_run(config, stages, capsys):
    darla("run", config)
    program = (
        "import sys\n"
        "from darla.rundir import RunDirectory\n"
        "with RunDirectory.load('runs/tiny').alone('transfer'):\n"
        "    print('begun', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"begun\n"
        capsys.readouterr()
        assert darla("transfer", config, "--protocol", "lab-single") == 2
        assert "another process is at work on 'transfer'" in capsys.readouterr().err
        other.communicate()
    assert darla("transfer", config, "--protocol", "lab-single") == 0


def test_a_run_is_scored_on_another_protocol(config, stages, capsys):
    darla("run", config)
    stages.done.clear()
    assert darla("transfer", config, "--protocol", "lab-single", "--json") == 0
    out, err = capsys.readouterr()
    assert stages.done == stages.checked == stages.digested == ["lab-single"]
    assert "contamination of lab-single: none" in err
    Path("salt").write_text(SALT)
    words = ("--protocol", "lab-pairs", "--fresh", "v1", "--salt-file", "salt")
    assert darla("transfer", config, *words) == 0
    assert stages.done[1].startswith("lab-pairs@v1-")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "lab-singel"), "did you mean 'lab-single'"),
        (("--protocol", "lab-minimal"), "'lab-minimal' has another D_U than 'lab'"),
        (("--fresh", "v1"), "--fresh TAG and --salt-file FILE go together"),
        (("--fresh", "v1", "--salt-file", "none"), "cannot read the salt in 'none'"),
        (("--fresh", "v1", "--salt-file", "salt"), "suite 'lab' is no table of shifts"),
        (
            ("--protocol", "lab-single", "--fresh", "v1", "--salt-file", "short"),
            "the salt has 5 characters",
        ),
    ],
)
def test_a_protocol_that_cannot_be_scored_is_refused(config, stages, words, message, capsys):
    darla("run", config)
    stages.done.clear()
    Path("salt").write_text(SALT)
    Path("short").write_text("12345")
    assert darla("transfer", config, *words) == 2
    err = capsys.readouterr().err
    assert message in err and err.splitlines()[-1].startswith("darla: ")
    assert stages.done == []


def test_fresh_targets_are_committed_to_before_they_are_listed(tmp_path, capsys):
    path = tmp_path / "salt"
    path.write_text(SALT)
    words = ("fresh", "--tag", "v0.1", "--salt-file", path, "--json")
    assert darla(*words) == 0
    digest = hashlib.sha256(f"v0.1\0{SALT.strip()}".encode()).hexdigest()
    assert json.loads(capsys.readouterr().out) == {"tag": "v0.1", "digest": digest}
    assert darla(*words, "--protocol", "lab-single") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["suite"] == f"lab-single@v0.1-{digest[:8]}"
    assert "lab/B/cake-balloon/light=0.489" in answer["targets"]


def test_unfinished_cells_are_scored_when_told(config, stages, capsys):
    darla("pretrain", config)
    assert darla("transfer", config) == 2
    assert darla("transfer", config, "--allow-unfinished") == 0
    assert stages.done[-1] == "transfer"


def test_train_can_be_narrowed_to_cells(config, stages, capsys):
    words = ("--perception", "factors", "--seed", "1", "--algorithm", "dqn", "--json")
    assert darla("train", config, *words) == 0
    assert stages.done == ["dqn-factors-s1"]
    assert json.loads(capsys.readouterr().out) == {"dqn-factors-s1": {"decisions": 120_000}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--perception", "factor"), "no perception 'factor' (did you mean 'factors'?); it has"),
        (("--seed", "7"), "no seed '7'; it has 0, 1"),
    ],
)
def test_a_cell_that_is_not_there_is_refused_before_anything_is_written(
    config, stages, words, message, capsys
):
    assert darla("train", config, *words) == 2
    assert message in capsys.readouterr().err
    assert not (config.parent / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("vision.betta=1",), "unknown key 'vision.betta' (did you mean 'vision.vae.beta'?)"),
        (("frames.count=no",), "'frames.count' must be an integer >= 4, not the text 'no'"),
        (("agents.seeds=[-1]",), "'agents.seeds[0]' must be an integer >= 0, not -1"),
        (("suite=labb",), "unknown suite 'labb' (did you mean 'lab'?)"),
        (("vision.device=gpu",), "vision.device is 'gpu', allowed is auto, cpu, cuda or cuda:N"),
        (
            ("vision.vae.reconstruction=pixel",),
            "perception 'darla' needs vision.vae.reconstruction=dae, this run has 'pixel'; a "
            "beta-VAE with a pixel loss is perception 'beta-vae', of vision.beta_vae.beta",
        ),
        (
            ("vision.vae.warm_start=true", "vision.vae.network=mlp"),
            "vision.vae.warm_start=true needs vision.vae.network=darla, not 'mlp'",
        ),
        (("runs=tiny.yaml",), "cannot write 'tiny.yaml/tiny': not a directory"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(config, stages, words, message, capsys):
    assert darla("run", config, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"darla: {message}") and err.count("\n") == 1
    assert stages.done == [] and not (config.parent / "runs").exists()


def test_every_fault_of_a_configuration_is_told(config, stages, capsys):
    assert darla("run", config, "frames.count=0", "vision.betta=1") == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_a_run_directory_of_another_configuration_is_refused(config, stages, capsys):
    darla("run", config)
    stages.done.clear()
    assert darla("run", config, "frames.count=7") == 2
    err = capsys.readouterr().err
    assert "frames.count 40000 -> 7" in err and "name=tiny-2" in err
    assert stages.done == []


def test_frames_that_nobody_can_collect_are_refused_before_there_is_a_run(
    config, stages, capsys, monkeypatch
):
    def refuse(tree):
        raise ConfigError(f"frames.policy is '{tree.frames.policy}'")

    monkeypatch.setattr(sys.modules["agents.walkers"], "walker_of", refuse)
    for command in ("run", "pretrain"):
        assert darla(command, config, "frames.policy=nobody") == 2
        assert capsys.readouterr().err == "darla: frames.policy is 'nobody'\n"
        assert not (config.parent / "runs" / "tiny").exists()


def test_a_disk_that_is_too_small_is_told_before_the_work(config, stages, capsys):
    assert darla("run", config, "frames.count=1000000000000") == 2
    err = capsys.readouterr().err
    assert "GiB free; give runs=FOLDER elsewhere" in err
    assert stages.done == []


def test_without_opengl_nothing_starts_unless_it_is_not_needed(config, stages, capsys, monkeypatch):
    broken = Check("OpenGL", "broken", "no frame could be rendered", "apt-get install libegl1")
    monkeypatch.setattr(doctor, "check_gl", lambda: broken)
    assert darla("run", config) == 2
    assert capsys.readouterr().err == (
        "darla: no frame could be rendered; apt-get install libegl1\n"
    )
    assert darla("train", config, "--perception", "factors") == 0
    assert stages.done == ["dqn-factors-s0", "dqn-factors-s1"]


def test_a_damaged_table_is_named(config, stages, capsys):
    darla("run", config)
    (config.parent / "runs" / "tiny" / "scores.jsonl").write_text('{"a": 1}\nx\n{"a": 2}\n')
    assert darla("run", config) == 2
    assert "scores.jsonl', line 2" in capsys.readouterr().err


def test_a_defect_is_one_line_and_a_traceback_only_with_debug(config, stages, capsys):
    stages.fails["frames"] = ZeroDivisionError("division\nby zero")
    assert darla("run", config) == 1
    err = capsys.readouterr().err
    assert err == (
        "darla: ZeroDivisionError: division by zero; this is a defect: run again with --debug\n"
    )
    stages.fails["frames"] = ZeroDivisionError("division by zero")
    assert darla("run", config, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_an_error(config, stages, capsys):
    assert darla("run", config, "suite=labb", "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].startswith("darla: unknown suite")


def test_shapes_are_trained_per_seed_and_only_once(config, stages, capsys):
    assert darla("shapes", config, "--quiet") == 0
    assert capsys.readouterr().out == "table of 1 reports\n"
    assert darla("shapes", config, "--seeds", "[3,4]", "--quiet", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "tiny-seed-3": {"seed": 3},
        "tiny-seed-4": {"seed": 4},
    }
    assert stages.done == ["shapes 0", "shapes 3", "shapes 4"]
    assert darla("shapes", config, "--seeds", "[3,4]") == 0
    assert len(stages.done) == 3, "what is finished is not repeated"
    moved = config.parent / "archive" / "tiny"
    moved.parent.mkdir()
    (config.parent / "runs/tiny").rename(moved)
    assert darla("shapes", moved / "config.yaml") == 0
    assert len(stages.done) == 3 and not (config.parent / "runs/tiny").exists()


@pytest.mark.parametrize("word", ["--cpus=-1", "--gpus=-1"])
def test_a_trial_reserves_no_less_than_nothing(config, stages, word, capsys):
    assert darla("tune", config, "--seeds", "[0]", word) == 2
    assert "should be greater than or equal to 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["tune", "study"])
def test_a_sweep_in_which_nothing_varies_is_refused(config, stages, command, capsys):
    assert darla(command, config) == 2
    assert "nothing varies; give --grid KEY=[A,B] or --seeds" in capsys.readouterr().err


def study_rows(variants):
    for number, variant in enumerate(variants):
        policy = {"algorithm": "ec", "perception": "darla", "source": 9.0, "target": number}
        yield {
            "run": variant.config.name,
            "varied": dict(variant.varied),
            "visions": [
                {
                    "perception": "darla",
                    "object_error": 0.1,
                    "kl": 30.0,
                    "active_units": 10,
                    "probe": {"room": 0.99},
                    "disentanglement": {"mig": number / 10},
                }
            ],
            "policies": [policy],
        }


def test_a_sweep_of_visions_alone_trains_no_policies(config, stages, capsys, monkeypatch):
    done = []

    def sweep(variants, work, **_):
        done.extend(work(variant.config) for variant in variants)
        return {}

    monkeypatch.setattr(tuning, "sweep", sweep)
    monkeypatch.setattr(tuning, "outcomes", lambda variants: list(study_rows(variants)))
    words = ("--grid", "vision.vae.beta=[1,4]", "--only-vision", "--json")
    assert darla("tune", config, *words) == 0
    rows = json.loads(capsys.readouterr().out)["trials"]
    assert len(done) == 2 and all(facts.keys() == {"frames", "vision"} for facts in done)
    assert [row["varied"]["vision.vae.beta"] for row in rows] == ["1", "4"]
    assert stages.done == ["frames", "vision"] * 2


def test_a_study_correlates_what_the_sweep_brought(config, stages, capsys, monkeypatch):
    monkeypatch.setattr(tuning, "sweep", lambda variants, *_, **__: {})
    monkeypatch.setattr(tuning, "outcomes", lambda variants: list(study_rows(variants)))
    words = ("--grid", "vision.vae.beta=[1,4]", "--seeds", "[0,1]", "--json")
    assert darla("study", config, *words) == 0
    found = json.loads(capsys.readouterr().out)["ec darla"]["mig"]["target"]
    assert found["rho"] == pytest.approx(1.0) and found["visions"] == 4
    assert (config.parent / "runs" / "tiny-study" / "scatter.png").exists()
    monkeypatch.setattr(tuning, "sweep", lambda variants, *_, **__: {"tiny-x": "no room"})
    assert darla("study", config, *words) == 2
    assert "1 of 4 trials failed" in capsys.readouterr().err


def test_report_takes_run_directories(config, stages, capsys):
    assert darla("report", "runs/tiny") == 2
    assert "'runs/tiny' is no run directory" in capsys.readouterr().err
    darla("run", config)
    darla("run", config, "name=other")
    (config.parent / "runs/tiny/report.html").unlink()
    capsys.readouterr()
    assert darla("report", "runs/tiny", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"report": "runs/tiny/report.html"}
    assert (config.parent / "runs/tiny/report.html").read_text() == "<html>1</html>"

    assert darla("report", "runs/tiny", "--markdown") == 0
    assert capsys.readouterr().out == "| 4 |\n"
    darla("transfer", config, "--protocol", "lab-single")
    capsys.readouterr()
    assert darla("report", "runs/tiny", "--markdown") == 0
    own, _, other = capsys.readouterr().out.partition("`lab-single`:\n\n")
    assert own.startswith("| ") and other.startswith("| ")

    assert darla("report", "runs/tiny", "runs/other") == 2
    assert "add -o report.html" in capsys.readouterr().err
    assert darla("report", "runs/tiny", "runs/other", "-o", "tiny.yaml") == 2
    assert "must end in .html" in capsys.readouterr().err
    assert darla("report", "runs/tiny", "runs/other", "-o", "both.html") == 0
    assert (config.parent / "both.html").read_text() == "<html>2</html>"


def test_markdown_writes_nothing(config, stages, capsys):
    darla("run", config)
    before = {path: path.stat().st_mtime_ns for path in (config.parent / "runs").rglob("*")}
    assert darla("report", "runs/tiny", "--markdown") == 0
    assert {p: p.stat().st_mtime_ns for p in (config.parent / "runs").rglob("*")} == before
    darla("run", config, "name=other")
    capsys.readouterr()
    assert darla("report", "runs/tiny", "runs/other", "--markdown") == 0
    assert capsys.readouterr().out.count("| ") == 2
    for word in ("--json", "--output=x.html"):
        assert darla("report", "runs/tiny", "--markdown", word) == 2
        assert "prints and writes nothing; leave out -o and --json" in capsys.readouterr().err
    (config.parent / "runs/tiny/scores.jsonl").unlink()
    assert darla("report", "runs/tiny", "--markdown") == 0
    assert capsys.readouterr() == ("", "runs/tiny: nothing is scored yet\n")


def test_the_configuration_of_a_run_is_about_that_run_wherever_it_lies(
    config, stages, capsys, monkeypatch
):
    darla("run", config)
    moved = config.parent / "archive" / "tiny"
    moved.parent.mkdir()
    (config.parent / "runs/tiny").rename(moved)
    other = config.parent / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    done = list(stages.done)
    assert darla("run", str(moved / "config.yaml")) == 0
    assert stages.done[len(done) :] == ["transfer"], "the rest was there"
    assert not list(other.iterdir())
    capsys.readouterr()
    renamed = moved.rename(moved.with_name("tiny2"))
    assert darla("run", str(renamed / "config.yaml")) == 2
    assert "holds the run 'tiny': give the folder that name again" in capsys.readouterr().err
    assert darla("run", str(renamed / "config.yaml"), "name=fresh") == 0
    assert (renamed.parent / "fresh").is_dir()
    assert darla("run", str(renamed / "config.yaml"), "runs=elsewhere") == 2
    assert darla("run", str(renamed / "config.yaml"), "runs=elsewhere", "name=tiny") == 0
    assert (other / "elsewhere" / "tiny").is_dir()


def test_a_suite_of_other_domains_than_before_is_refused(config, stages, capsys):
    darla("pretrain", config)
    status = read_json(config.parent / "runs/tiny/run.json")
    assert status["domains"]["d_t"] == ["lab/B/hat-can"]
    status["domains"]["d_t"] = ["lab/B/hat-can/light=0.5"]
    write_json(config.parent / "runs/tiny/run.json", status)
    before = list(stages.done)
    assert darla("run", config) == 2
    assert "suite 'lab': its domains were others when the run began" in capsys.readouterr().err
    assert stages.done == before


def test_a_report_without_the_plugin_of_its_run_is_refused(config, stages, capsys):
    (config.parent / "mine.py").write_text("")
    darla("run", config, "environment.plugin=mine.py")
    page = (config.parent / "runs/tiny/report.html").read_bytes()
    (config.parent / "mine.py").unlink()
    capsys.readouterr()
    plugins.import_plugin.cache_clear()
    assert darla("report", "runs/tiny") == 2
    assert "no file 'mine.py'" in capsys.readouterr().err
    assert (config.parent / "runs/tiny/report.html").read_bytes() == page


def test_report_of_a_run_without_scores(config, stages, capsys):
    darla("pretrain", config)
    assert darla("report", "runs/tiny") == 0
    assert (config.parent / "runs/tiny/report.html").exists()
    assert not (config.parent / "runs/tiny/results.json").exists()


def test_domains_are_listed_with_their_tags(config, capsys):
    assert darla("domains", config) == 0
    lines = capsys.readouterr().out.splitlines()
    (target,) = [line for line in lines if line.split()[0] == "lab/B/hat-can"]
    assert "target, policy-ood" in target
    assert darla("domains", config, "--json") == 0
    (row,) = [
        row
        for row in json.loads(capsys.readouterr().out)["domains"]
        if row["id"] == "lab/B/hat-can"
    ]
    assert row["factors"]["room"] == "B" and "source" not in row["tags"]


def test_a_simulator_that_is_not_there_is_said_before_anything_starts(config, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepmind_lab", None)
    assert darla("run", "deepmind-lab") == 2
    assert "build its wheel with Bazel" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_domains_have_a_digest_of_their_frames_on_request(config, capsys):
    assert darla("domains", config, "--digest", "--json") == 0
    digests = [row["digest"] for row in json.loads(capsys.readouterr().out)["domains"]]
    assert len(set(digests)) == 4 and all(len(digest) == 64 for digest in digests)
    assert darla("domains", config, "--digest") == 0
    assert f"lab/A/hat-can       {digests[0]}  vision, source" in capsys.readouterr().out


def test_a_sheet_overwrites_pictures_only(config, capsys, monkeypatch):
    drawn: list[Path] = []
    sheet = types.SimpleNamespace(draw_sheet=lambda tree, path: drawn.append(path))
    monkeypatch.setitem(sys.modules, "envs.sheet", sheet)
    Path("thesis.png").write_text("no picture")
    Path("folder.png").mkdir()
    Path("old.png").write_bytes(b"\x89PNG\r\n\x1a\n...")
    for name, message in {
        "thesis.png": "exists and is no PNG picture",
        "folder.png": "is a folder",
        "sheet.jpg": "must end in .png",
    }.items():
        assert darla("domains", config, "-o", name) == 2
        assert message in capsys.readouterr().err
    assert drawn == []
    for name in ("old.png", "new.png"):
        assert darla("domains", config, "-o", name) == 0
    assert drawn == [Path("old.png"), Path("new.png")]


def test_doctor_fails_when_something_needed_is_broken(capsys, monkeypatch):
    checks = [Check("torch", "ok", "2"), Check("disk", "warning", "1 GiB free", "free some")]
    monkeypatch.setattr(doctor, "diagnose", lambda: checks)
    assert darla("doctor") == 0
    assert "-> free some" in capsys.readouterr().out
    checks.append(Check("ray", "broken", "does not start", "make install"))
    assert darla("doctor", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"][2]["remedy"] == "make install"
    assert err == "darla: broken: ray\n"


def test_config_show_prints_what_can_be_read_again(config, capsys):
    assert darla("config", "show", config, "vision.vae.beta=2") == 0
    shown = capsys.readouterr().out
    Path("shown.yaml").write_text(shown)
    assert darla("config", "show", "shown.yaml") == 0
    assert capsys.readouterr().out == shown
    assert darla("config", "show", config, "--json") == 0
    assert json.loads(capsys.readouterr().out)["agents"]["seeds"] == [0, 1]


def test_config_schema_tells_every_key(capsys):
    assert darla("config", "schema") == 0
    text = capsys.readouterr().out
    assert "frames.count: 40000" in text and "an integer >= 1" in text
    assert darla("config", "schema", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"key", "allowed", "default", "description"} == rows[0].keys()
    assert all(f"{row['key']}: " in text for row in rows)


@pytest.mark.parametrize("words", [("frobnicate",), ("run",), ("run", "x", "--frobnicate")])
def test_a_wrong_command_line_ends_with_2(words, capsys):
    assert darla(*words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_closed_pipe_is_no_defect():
    program = "from darla.cli import main; main()"
    words = [sys.executable, "-c", program, "config", "schema"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_an_algorithm_that_cannot_act_in_the_world_is_refused_first(tmp_path, capfd):
    words = [f"runs={tmp_path}/runs", "agents.algorithms=[dqn]"]
    assert darla("run", "jaco-quick", *words) == 2
    assert "9 choices at once; type agents.algorithms=[a3c]" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()
