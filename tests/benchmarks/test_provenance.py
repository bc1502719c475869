from pathlib import Path

import pytest

from benchmarks.provenance import (
    FRAME_DIGESTS,
    commands_of,
    facts_of,
    frame_digests_of,
    keep_frame_digests,
    stages_of,
)
from darla.config import Config, load_config
from darla.errors import CorruptFileError
from darla.rundir import RunDirectory
from darla.storage import read_json, write_json
from envs.digest import frame_digest
from envs.registry import get_suite


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.open(Config(name="r", runs=str(tmp_path)))


def test_frames_of_every_scored_domain_have_a_digest(run: RunDirectory) -> None:
    suite = get_suite("lab")
    assert frame_digests_of(run) == []
    keep_frame_digests(run, [suite])
    known = read_json(run.path / FRAME_DIGESTS)
    assert set(known) == {domain.id for domain in (*suite.d_s, *suite.d_t)}
    target = suite.d_t[0]
    assert known[target.id] == frame_digest(run.config.environment, target)
    assert len(set(known.values())) == len(known)
    assert (f"frames of {target.id}", known[target.id]) in frame_digests_of(run)


def test_a_digest_that_is_there_is_kept(run: RunDirectory) -> None:
    suite = get_suite("lab")
    before = {domain.id: "0" * 64 for domain in suite.domains}
    write_json(run.path / FRAME_DIGESTS, before)
    keep_frame_digests(run, [suite])
    assert read_json(run.path / FRAME_DIGESTS) == before


def test_the_same_again_is_the_tier_or_the_run_with_its_protocols(
    run: RunDirectory, tmp_path: Path
) -> None:
    again = commands_of(run, {"git": {"commit": "abc"}}, ["lab-single"]).splitlines()
    config = run.path / "config.yaml"
    assert again == [
        "git checkout abc",
        "make install",
        ". .venv/bin/activate",
        f"darla run {config} name=r-again",
        f"darla transfer {config} name=r-again --protocol lab-single",
    ]
    fresh = commands_of(run, {}, ["lab-single@v0.1-4e58ac86"]).splitlines()[-1]
    assert fresh.endswith("--protocol lab-single --fresh v0.1 --salt-file SALT")
    smoke = RunDirectory.open(load_config("benchmark-smoke", [f"runs={tmp_path}", "name=s"]))
    last = commands_of(smoke, {}, ["lab-single"]).splitlines()[-1]
    assert last == "darla benchmark --tier smoke name=s-again"
    assert "darla run" in commands_of(smoke, {}, ["lab-looks"])
    assert "darla run" in commands_of(smoke, {}), "it was not scored as the tier is"
    changed = load_config("benchmark-smoke", [f"runs={tmp_path}", "name=t", "frames.seed=5"])
    assert "darla run" in commands_of(RunDirectory.open(changed), {}, ["lab-single"])


def test_damaged_digests_are_refused(run: RunDirectory) -> None:
    (run.path / FRAME_DIGESTS).write_text('{"lab/A')
    with pytest.raises(CorruptFileError, match=FRAME_DIGESTS):
        frame_digests_of(run)


def test_the_same_again_is_of_the_folder_where_the_run_lies(
    run: RunDirectory, tmp_path: Path
) -> None:
    moved = RunDirectory.load(run.path.rename(tmp_path / "elsewhere"))
    assert f"darla run {moved.path / 'config.yaml'} name=r-again" in commands_of(moved, {})


def test_the_stage_that_writes_the_page_is_not_in_it(run: RunDirectory) -> None:
    for stage in ("frames", "report"):
        run.start(stage)
    assert [stage for stage, *_ in stages_of(run.status())] == ["frames"]


def test_all_code_that_worked_on_a_run_is_told(run: RunDirectory) -> None:
    first, second = {"commit": "one", "changed": False}, {"commit": "two", "changed": True}
    stages = {"frames": {"code": [first]}, "score/a": {"code": [first, second]}, "old": {}}
    status = {"git": first, "stages": stages}
    assert facts_of(status)[0] == (
        "code",
        "commit one; commit two, with changes that were not committed",
    )
    assert commands_of(run, status).startswith("git checkout two\n")
    assert facts_of({"git": first})[0] == ("code", "commit one")
    assert "checkout" not in commands_of(run, {})
