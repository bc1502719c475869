import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from darla import rundir
from darla.config import Config, load_config, to_yaml
from darla.errors import CorruptFileError, MissingFileError, RunDirectoryError
from darla.rundir import RunDirectory
from darla.storage import sha256_file

PYTHON = [sys.executable, "-c"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(name="x", runs=str(tmp_path / "runs"))


class Clock:
    """Time that moves when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(rundir.time, "monotonic", lambda: self.now)


def changed(config: Config, **values: object) -> Config:
    return Config.model_validate({**config.model_dump(), **values})


def test_a_new_directory_holds_its_configuration_and_where_it_comes_from(config):
    run = RunDirectory.open(config)
    assert run.path == Path(config.runs) / "x"
    assert load_config(run.path / "config.yaml") == config
    status = run.status()
    assert status["name"] == "x"
    assert status["stages"] == {}
    assert status["seeds"] == {"frames": 0, "vision": 0, "agents": [0], "transfer": 10_000}
    assert status["host"]["cpus"] == os.cpu_count()
    assert {"darla", "python", "torch", "ray", "mujoco"} <= status["versions"].keys()
    assert set(status["git"] or ("commit", "changed")) == {"commit", "changed"}


def test_every_path_lies_in_the_directory(config):
    run = RunDirectory.open(config)
    paths = [run.frames, run.vision, run.agent("dqn-darla-s0"), run.scores]
    paths += [run.results_json, run.results_csv, run.report]
    assert len(set(paths)) == len(paths)
    assert all(run.path in path.parents for path in paths)


def test_opening_again_changes_nothing_and_loading_finds_it_where_it_was_moved(config, tmp_path):
    run = RunDirectory.open(config)
    run.start("frames")
    run.finish("frames", count=3)
    before = {file.name: file.read_bytes() for file in run.path.iterdir() if file.is_file()}
    again = RunDirectory.open(config, create=False)
    assert {
        file.name: file.read_bytes() for file in again.path.iterdir() if file.is_file()
    } == before

    run.path.rename(tmp_path / "moved")
    moved = RunDirectory.load(tmp_path / "moved")
    assert moved.config == config
    assert moved.finished("frames")


def test_another_configuration_is_refused_with_the_keys_and_what_to_type(config):
    RunDirectory.open(config)
    other = changed(config, frames={"count": 7}, suite="lab-minimal")
    with pytest.raises(RunDirectoryError) as caught:
        RunDirectory.open(other)
    message = str(caught.value)
    assert "suite lab -> lab-minimal" in message
    assert "frames.count 40000 -> 7" in message
    assert "name=x-2" in message
    assert f"'{config.runs}/x/config.yaml' to continue" in message
    assert load_config(Path(config.runs) / "x" / "config.yaml") == config


def test_the_next_name_is_one_that_is_free(config):
    RunDirectory.open(config)
    RunDirectory.open(changed(config, name="x-2"))
    with pytest.raises(RunDirectoryError, match="name=x-3"):
        RunDirectory.open(changed(config, name="x-2", suite="lab-minimal"))


def test_who_does_the_work_may_change(config):
    RunDirectory.open(config)
    elsewhere = changed(config, ray={"address": "auto", "cpus_per_worker": 1.0})
    assert RunDirectory.open(elsewhere).config.ray.address == "auto"


def test_without_create_nothing_is_made(config):
    with pytest.raises(MissingFileError, match="no run directory"):
        RunDirectory.open(config, create=False)
    assert not Path(config.runs).exists()


def test_a_folder_of_something_else_is_left_alone(config):
    folder = Path(config.runs) / "x"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("")
    with pytest.raises(RunDirectoryError, match=r"is no run directory \(it holds 'thesis\.tex'\)"):
        RunDirectory.open(config)
    with pytest.raises(MissingFileError, match=r"no config\.yaml"):
        RunDirectory.load(folder)
    assert [file.name for file in folder.iterdir()] == ["thesis.tex"]


MADE = """
import sys, time
from darla.config import Config
from darla.rundir import RunDirectory
while time.time() < float(sys.argv[2]):
    pass
run = RunDirectory.open(Config(name="x", runs=sys.argv[1]))
run.start(sys.argv[3])
run.finish(sys.argv[3])
"""


def test_processes_that_make_a_directory_at_once_lose_nothing(config, tmp_path):
    for attempt in range(3):
        runs, at = str(tmp_path / f"runs{attempt}"), str(time.time() + 2.5)
        makers = [subprocess.Popen([*PYTHON, MADE, runs, at, stage]) for stage in ("a", "b", "c")]
        assert [maker.wait() for maker in makers] == [0, 0, 0]
        run = RunDirectory.open(changed(config, runs=runs))
        assert all(run.finished(stage) for stage in ("a", "b", "c"))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EAGAIN])
def test_storage_without_locks_is_not_taken_for_another_process(config, monkeypatch, number):
    run = RunDirectory.open(config)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(rundir.fcntl, "lockf", refuse)
    expected = {errno.ENOLCK: "storage that gives no locks", errno.EAGAIN: "another process is at"}
    with pytest.raises(RunDirectoryError, match=expected[number]):
        run.start("frames")


def test_a_lost_run_json_is_said(config):
    run = RunDirectory.open(config)
    (run.path / "run.json").unlink()
    with pytest.raises(CorruptFileError, match=r"lost its run\.json.*restore it, or type name=x-2"):
        run.finished("frames")


@pytest.mark.parametrize(
    "left", [(), ("run.json",), (".run.json.7-ab.tmp",), (".config.yaml.7-ab.tmp",)]
)
def test_a_directory_that_was_killed_while_it_was_made_is_made_whole(config, left):
    folder = Path(config.runs) / "x"
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).write_text("{")
    assert RunDirectory.open(config).status()["stages"] == {}


def test_a_place_that_cannot_be_written_is_one_clear_line(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write '.*x': not a directory"):
        RunDirectory.open(changed(config, runs=str(tmp_path / "file" / "runs")))


def test_a_damaged_directory_is_named(config):
    run = RunDirectory.open(config)
    (run.path / "run.json").write_text('{"stages": {')
    with pytest.raises(CorruptFileError, match=r"run\.json"):
        run.finished("frames")
    (run.path / "config.yaml").write_text(to_yaml(config).replace("suite", "siute"))
    for opened in (lambda: RunDirectory.open(config), lambda: RunDirectory.load(run.path)):
        with pytest.raises(RunDirectoryError, match=r"unknown key 'siute' \(did you mean 'suite'"):
            opened()


def test_a_stage_is_finished_when_it_was_finished(config):
    run = RunDirectory.open(config)
    assert not run.finished("frames")
    run.start("frames")
    assert not run.finished("frames")
    run.finish("frames", count=7, in_view=0.5)
    assert run.finished("frames") and not run.finished("vision")
    entry = RunDirectory.load(run.path).status()["stages"]["frames"]
    assert entry["facts"] == {"count": 7, "in_view": 0.5}
    assert entry["started"] <= entry["finished"]


def test_a_stage_that_starts_again_is_not_finished(config):
    run = RunDirectory.open(config)
    run.start("report")
    run.finish("report")
    run.start("report")
    assert not run.finished("report")


def test_seconds_accumulate_over_notes_pauses_and_processes(config, monkeypatch):
    clock = Clock(monkeypatch)
    run = RunDirectory.open(config)
    run.start("dae")
    clock.now += 10
    run.note("dae", step=5)
    clock.now += 5
    run.pause()
    clock.now += 1000
    again = RunDirectory.load(run.path)
    again.start("dae")
    clock.now += 7
    again.finish("dae", loss=0.1)
    entry = again.status()["stages"]["dae"]
    assert entry["seconds"] == 22
    assert entry["facts"] == {"step": 5, "loss": 0.1}


def test_parents_are_recorded_with_their_checksum(config):
    run = RunDirectory.open(config)
    run.frames.mkdir()
    (run.frames / "index.json").write_text("{}")
    run.start("vision")
    run.finish("vision", parents=[run.frames / "index.json"])
    expected = {"frames/index.json": sha256_file(run.frames / "index.json")}
    assert run.status()["stages"]["vision"]["parents"] == expected


def test_two_processes_never_work_on_the_same_stage(config):
    run = RunDirectory.open(config)
    run.start("train/dqn-darla-s0")
    program = f"""
from darla.rundir import RunDirectory
run = RunDirectory.load({str(run.path)!r})
run.start("train/dqn-pixels-s0")
run.finish("train/dqn-pixels-s0")
run.start("train/dqn-darla-s0")
"""
    other = subprocess.run([*PYTHON, program], capture_output=True, text=True)
    assert "another process is at work on 'train/dqn-darla-s0'" in other.stderr
    assert run.finished("train/dqn-pixels-s0")
    run.finish("train/dqn-darla-s0")
    assert subprocess.run([*PYTHON, program], capture_output=True).returncode == 0


def test_work_that_is_no_stage_can_be_done_alone(config):
    run = RunDirectory.open(config)
    program = f"""
from darla.rundir import RunDirectory
with RunDirectory.load({str(run.path)!r}).alone("transfer"):
    print("alone")
"""
    with run.alone("transfer"):
        other = subprocess.run([*PYTHON, program], capture_output=True, text=True)
        assert "another process is at work on 'transfer'" in other.stderr
    done = subprocess.run([*PYTHON, program], capture_output=True, text=True)
    assert done.stdout == "alone\n" and run.status()["stages"] == {}


def test_kill_9_leaves_a_stage_that_can_be_continued(config):
    run = RunDirectory.open(config)
    program = f"""
import time
from darla.rundir import RunDirectory
run = RunDirectory.load({str(run.path)!r})
run.start("dae")
print("begun", flush=True)
while True:
    run.note("dae")
"""
    worker = subprocess.Popen([*PYTHON, program], stdout=subprocess.PIPE)
    assert worker.stdout is not None and worker.stdout.readline() == b"begun\n"
    with pytest.raises(RunDirectoryError, match="another process"):
        run.start("dae")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    run.start("dae")
    run.finish("dae")
    assert run.finished("dae")


def test_a_stage_that_starts_again_keeps_its_seconds(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    run = RunDirectory.open(Config(name="x", runs=str(tmp_path)))
    run.start("dae")
    clock.now += 10
    run.start("dae")
    clock.now += 5
    run.finish("dae")
    assert run.status()["stages"]["dae"]["seconds"] == 15


@pytest.mark.parametrize("text", ["[]", "{}", '{"stages": []}'])
def test_a_status_of_another_shape_is_damaged(tmp_path, text):
    run = RunDirectory.open(Config(name="x", runs=str(tmp_path)))
    (run.path / "run.json").write_text(text)
    with pytest.raises(CorruptFileError, match="it has no stages"):
        run.status()


def test_what_is_kept_is_refused_when_it_changes(tmp_path):
    run = RunDirectory.open(Config(name="x", runs=str(tmp_path)))
    run.keep("domains", ["a", "b"], "list of domains")
    run.keep("domains", ["a", "b"], "list of domains")
    with pytest.raises(RunDirectoryError, match="has another list of domains; restore it, or type"):
        run.keep("domains", ["a"], "list of domains")
    assert run.status()["domains"] == ["a", "b"]


def test_a_stage_knows_the_code_that_worked_on_it(tmp_path, monkeypatch):
    run = RunDirectory.open(Config(name="x", runs=str(tmp_path)))
    for commit in ("one", "one", "two"):
        monkeypatch.setattr(rundir, "_git_state", lambda commit=commit: {"commit": commit})
        run.start("frames")
    assert run.status()["stages"]["frames"]["code"] == [{"commit": "one"}, {"commit": "two"}]
    monkeypatch.setattr(rundir, "_git_state", lambda: None)
    run.start("vision")
    assert run.status()["stages"]["vision"]["code"] == []


def test_a_run_directory_that_cannot_be_written_is_one_line(tmp_path):
    run = RunDirectory.open(Config(name="x", runs=str(tmp_path)))
    shutil.rmtree(run.path / ".locks")
    (run.path / ".locks").write_text("no folder")
    for use in (lambda: run.keep("domains", [], "list"), lambda: run.start("frames")):
        with pytest.raises(RunDirectoryError, match="cannot write '.*locks"):
            use()
