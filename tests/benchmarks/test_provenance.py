from pathlib import Path

import pytest

from benchmarks.provenance import FRAME_DIGESTS, frame_digests_of, keep_frame_digests
from darla.config import Config
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


def test_damaged_digests_are_refused(run: RunDirectory) -> None:
    (run.path / FRAME_DIGESTS).write_text('{"lab/A')
    with pytest.raises(CorruptFileError, match=FRAME_DIGESTS):
        frame_digests_of(run)
