import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.acting import Episode
from agents.algorithms import POLICY_FILE
from agents.cells import Cell
from agents.dqn import QPolicy
from agents.networks import QNetwork
from agents.pool import WorkerPool
from benchmarks import transfer
from benchmarks.scores import RANDOM_POLICY, read_scores
from darla.cluster import ray_session
from darla.config import Config, RayConfig, TransferConfig
from darla.errors import CorruptFileError, DarlaError, MissingFileError
from darla.rundir import RunDirectory
from darla.storage import write_bytes
from envs.registry import get_suite
from tests.toys import Catch, toy_perception

SUITE = get_suite("lab-looks")
CELLS = [Cell("dqn", "darla", 0), Cell("dqn", "pixels", 0)]


class FakePlayer:
    """Returns are a function of who plays where, so that rows can be checked; counts its calls."""

    def __init__(self, die_at: int | None = None, value: float = 0.0) -> None:
        self.calls: list[tuple[object, str, int, float, int]] = []
        self.opened = 0
        self.die_at, self.value = die_at, value

    @contextmanager
    def open(self) -> Iterator["FakePlayer"]:
        self.opened += 1
        yield self

    def evaluate(self, policy, perception, domains, episodes, *, epsilon, seed):
        if len(self.calls) == self.die_at:
            raise KeyboardInterrupt
        (domain,) = domains
        self.calls.append((policy, domain.id, episodes, epsilon, seed))
        numbers = range(episodes)
        return [
            Episode(0, float(len(domain.id) + n + self.value), 7, n % 4, n // 4, seed)
            for n in numbers
        ]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    config = Config(
        name="r", runs=str(tmp_path), suite=SUITE.name, transfer=TransferConfig(episodes=10)
    )
    run = RunDirectory.open(config)
    for cell in CELLS:
        write_bytes(run.agent(cell.id) / POLICY_FILE, b"weights")
    return run


def score(run: RunDirectory, player: FakePlayer, cells: Sequence[Cell] = CELLS) -> None:
    transfer.score(
        run.config,
        run,
        cells,
        SUITE,
        load=lambda cell: (cell.id, None),
        players=player.open,
        quiet=True,
    )


def test_each_kind_of_domain_gets_its_episodes() -> None:
    exams = transfer.exams_of(SUITE, 10)
    by_kind = {}
    for exam in exams:
        kind = "encoder-ood" if "encoder-ood" in exam.tags else exam.split
        by_kind.setdefault(kind, []).append(exam.episodes)
    assert by_kind == {"source": [4, 4, 4], "target": [10], "encoder-ood": [1] * 10}
    assert [exam.domain for exam in exams] == [*SUITE.d_s, *SUITE.d_t]


def test_rows_say_who_played_where(run: RunDirectory) -> None:
    player = FakePlayer()
    score(run, player)
    scores = read_scores(run)
    assert len(scores) == 3 * (12 + 10 + 10)
    assert {(s.algorithm, s.perception, s.seed) for s in scores} == {
        ("dqn", "darla", 0),
        ("dqn", "pixels", 0),
        (RANDOM_POLICY, "none", 0),
    }
    for item in scores:
        assert item.value == len(item.domain) + item.episode
        assert item.tags == SUITE.tags(SUITE.domain(item.domain))
        assert item.split == ("source" if "source" in item.tags else "target")
        assert item.layout_seed == (10_000, item.episode % 4, item.episode // 4)
        assert item.frames == (0 if item.algorithm == RANDOM_POLICY else 120_000 * 12)
        assert (item.suite, item.length) == ("lab-looks", 7)
    assert {call[0] for call in player.calls} == {"dqn-darla-s0", "dqn-pixels-s0", None}
    assert {call[3:] for call in player.calls} == {(TransferConfig().epsilon, 10_000)}
    assert all(
        run.finished(f"score/{name}") for name in ("dqn-darla-s0", "dqn-pixels-s0", "random")
    )


def test_the_random_policy_can_be_left_out(run: RunDirectory) -> None:
    config = run.config
    run.config = config.model_copy(
        update={"transfer": TransferConfig(episodes=10, random_policy=False)}
    )
    score(run, FakePlayer())
    assert {item.algorithm for item in read_scores(run)} == {"dqn"}


def test_what_is_scored_is_not_played_again(run: RunDirectory) -> None:
    score(run, FakePlayer())
    before = run.scores.read_bytes()
    again = FakePlayer()
    score(run, again)
    assert (again.calls, again.opened) == ([], 0)
    assert run.scores.read_bytes() == before


@pytest.mark.parametrize("die_at", [1, 20])
@pytest.mark.parametrize("torn", [0, 60, 700])
def test_a_killed_scoring_ends_with_the_same_table(
    run: RunDirectory, die_at: int, torn: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        score(run, FakePlayer(die_at=die_at))
    data = run.scores.read_bytes()
    run.scores.write_bytes(data[: len(data) - torn])
    score(RunDirectory.load(run.path), FakePlayer())
    resumed = sorted(read_scores(run), key=lambda item: item.key)
    run.scores.unlink()
    score(RunDirectory.load(run.path), FakePlayer())
    assert resumed == sorted(read_scores(run), key=lambda item: item.key)


def test_a_new_cell_is_added_to_the_table(run: RunDirectory) -> None:
    score(run, FakePlayer(), CELLS[:1])
    before = run.scores.read_text()
    score(run, FakePlayer(), CELLS)
    assert run.scores.read_text().startswith(before)
    assert len(read_scores(run)) == 3 * 32


def test_a_corrupt_line_is_named_and_nothing_is_lost(run: RunDirectory) -> None:
    score(run, FakePlayer())
    lines = run.scores.read_text().splitlines()
    lines[9] = lines[9][:40]
    run.scores.write_text("\n".join(lines) + "\n")
    before = run.scores.read_bytes()
    with pytest.raises(CorruptFileError, match=r"scores.jsonl.*line 10"):
        score(run, FakePlayer())
    assert run.scores.read_bytes() == before


def test_a_planted_nan_is_named(run: RunDirectory) -> None:
    score(run, FakePlayer())
    lines = run.scores.read_text().splitlines()
    planted = json.loads(lines[3]) | {"return": float("nan")}
    lines[3] = json.dumps(planted)
    run.scores.write_text("\n".join(lines) + "\n")
    with pytest.raises(CorruptFileError, match=r"line 4: the return of dqn on darla, seed 0.*nan"):
        score(run, FakePlayer())


def test_a_return_that_is_no_number_is_not_written(run: RunDirectory) -> None:
    with pytest.raises(DarlaError, match=r"return of dqn-darla-s0 in lab/.*, episode 0, is not a"):
        score(run, FakePlayer(value=np.inf))
    assert not run.scores.exists()


def test_untrained_cells_are_refused_in_one_line(run: RunDirectory) -> None:
    cells = [*CELLS, Cell("dqn", "darla", 1), Cell("dqn", "pixels", 1)]
    with pytest.raises(MissingFileError) as caught:
        score(run, FakePlayer(), cells)
    message = str(caught.value)
    assert "dqn-darla-s1, dqn-pixels-s1;" in message
    assert "dqn-darla-s0" not in message
    assert "\n" not in message
    assert not run.scores.exists()


@pytest.mark.timeout(300)
def test_ray_workers_play_the_same_layouts_for_every_cell(run: RunDirectory) -> None:
    ray_config = RayConfig(workers=2, envs_per_worker=3)
    perception = toy_perception()

    @contextmanager
    def workers() -> Iterator[WorkerPool]:
        with ray_session(ray_config), WorkerPool(ray_config, Catch) as pool:
            yield pool

    def load(cell: Cell) -> tuple[QPolicy, object]:
        generator = torch.Generator().manual_seed(CELLS.index(cell))
        network = QNetwork(perception.shape, 3, (8,), generator)
        return QPolicy(network, perception.fingerprint), perception

    transfer.score(run.config, run, CELLS, SUITE, load=load, players=workers, quiet=True)
    scores = read_scores(run)
    assert len(scores) == 3 * 32
    layouts = {}
    for item in scores:
        assert item.value in (-1.0, 1.0)
        layouts.setdefault((item.domain, item.episode), set()).add(item.layout_seed)
    assert all(len(seeds) == 1 for seeds in layouts.values())
    assert len({next(iter(seeds)) for seeds in layouts.values()}) > 1
