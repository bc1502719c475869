"""Stage 3: zero-shot scores of every trained cell, in its source domains and in unseen targets.

A scored episode is a line of `scores.jsonl`. Every cell plays the same layouts, since these follow
from `transfer.seed` and the Ray settings and never from the policy; nothing learns. The episodes of
a cell in a domain are written at once, and a repeated command plays only what is not there: it
finds a finished table after `kill -9` as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from agents.acting import Episode
from agents.algorithms import POLICY_FILE, load_policy
from agents.cells import Cell, perception_of
from agents.policy import Policy
from agents.pool import WorkerPool
from benchmarks.scores import RANDOM_POLICY, Score, parse_scores
from darla.cluster import ray_session
from darla.config import Config
from darla.errors import DarlaError, DependencyError, MissingFileError
from darla.perception import Perception
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, read_jsonl
from envs import make_vector
from envs.domains import ENCODER_OOD, Domain, Suite
from envs.registry import suite_of
from envs.sheet import draw_sheet

FLOOR = Cell(RANDOM_POLICY, "none", 0)
"""The uniform random policy, as a cell: the score of knowing nothing."""


class Player(Protocol):
    """Plays episodes, as `agents.worker.WorkerPool` does."""

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        domains: Sequence[Domain],
        episodes: int,
        *,
        epsilon: float,
        seed: int,
    ) -> list[Episode]:
        """Plays exactly `episodes` episodes, in an order that does not depend on timing."""
        ...


Loader = Callable[[Cell], tuple[Policy, Perception]]


@dataclass(frozen=True)
class Exam:
    """A domain to score in.

    Attributes:
        domain: The domain.
        tags: Its tags in the suite.
        split: 'source' or 'target'.
        episodes: Episodes of every cell.
    """

    domain: Domain
    tags: tuple[str, ...]
    split: str
    episodes: int


def exams_of(suite: Suite, episodes: int) -> list[Exam]:
    """What every cell of a suite is scored on.

    Sources, targets whose parts the encoder saw, and targets with a look that it never saw get
    `episodes` each, spread evenly over their domains and rounded up.
    """
    groups: dict[tuple[str, bool], list[Domain]] = {}
    for split, domains in (("source", suite.d_s), ("target", suite.d_t)):
        for domain in domains:
            groups.setdefault((split, ENCODER_OOD in suite.tags(domain)), []).append(domain)
    return [
        Exam(domain, suite.tags(domain), split, math.ceil(episodes / len(domains)))
        for (split, _), domains in groups.items()
        for domain in domains
    ]


def score_transfer(
    config: Config, run: RunDirectory, cells: Sequence[Cell], *, quiet: bool = False
) -> None:
    """Scores trained cells, and the random policy if it is wanted, into `scores.jsonl`.

    Args:
        config: The experiment; `suite`, `environment`, `ray` and `transfer` are read.
        run: Its run directory.
        cells: What to score; all of them must be trained to their end.
        quiet: Show no progress.

    Raises:
        MissingFileError: Cells are not trained yet; the message names all of them.
        CorruptFileError: A line of `scores.jsonl` is damaged (a torn last line is repaired), or a
            policy is.
        FingerprintError: A policy was trained on another vision than the run holds.
        DarlaError: A worker died, or a return is not a finite number.
    """
    factory = functools.partial(make_vector, config.environment)

    @contextmanager
    def workers() -> Iterator[Player]:
        with ray_session(config.ray), WorkerPool(config.ray, factory) as pool:
            yield pool

    def load(cell: Cell) -> tuple[Policy, Perception]:
        policy = load_policy(run, cell)
        return policy, perception_of(run, cell.perception, cell.seed)

    score(config, run, cells, suite_of(config), load=load, players=workers, quiet=quiet)
    sheet = run.path / "domains.png"
    if not sheet.exists():
        # A picture for the report; without OpenGL, which `factors` does without, there is none.
        with suppress(DependencyError):
            draw_sheet(config, sheet)


def score(
    config: Config,
    run: RunDirectory,
    cells: Sequence[Cell],
    suite: Suite,
    *,
    load: Loader,
    players: Callable[[], AbstractContextManager[Player]],
    quiet: bool = False,
) -> None:
    """Scores cells on any suite; see `score_transfer`.

    Args:
        config: The experiment.
        run: Its run directory.
        cells: What to score.
        suite: Domains to score in.
        load: Gives the policy of a cell and what it sees through.
        players: Opens what plays; not called when there is nothing left to play.
        quiet: Show no progress.
    """
    exams = exams_of(suite, config.transfer.episodes)
    done = _scored(run)
    contestants = [*cells, FLOOR] if config.transfer.random_policy else list(cells)
    pending = {cell: [exam for exam in exams if _missing(cell, exam, done)] for cell in contestants}
    pending = {cell: own for cell, own in pending.items() if own}
    _refuse_untrained(run, [cell for cell in pending if cell != FLOOR])
    if not pending:
        return
    total = sum(exam.episodes for exam in exams) * len(contestants)
    with players() as player, Progress("transfer", total, "episodes", quiet=quiet) as progress:
        progress.update(len(done))
        for cell, own in pending.items():
            run.start(_stage(cell))
            policy, perception = (None, None) if cell == FLOOR else load(cell)
            for exam in own:
                episodes = player.evaluate(
                    policy,
                    perception,
                    [exam.domain],
                    exam.episodes,
                    epsilon=config.transfer.epsilon,
                    seed=config.transfer.seed,
                )
                scores = _scores(config, suite, cell, exam, episodes)
                new = [item for item in scores if item.key not in done]
                append_jsonl(run.scores, [item.row() for item in new])
                done |= {item.key for item in new}
                progress.update(len(done), cell=cell.id)
            parents = [] if cell == FLOOR else [run.agent(cell.id) / POLICY_FILE]
            run.finish(_stage(cell), parents=parents, episodes=sum(exam.episodes for exam in exams))


def _scored(run: RunDirectory) -> set[tuple[str, str, int, str, int]]:
    """The keys of the episodes that are in the table; cuts off a torn last line."""
    if not run.scores.exists():
        return set()
    rows = read_jsonl(run.scores, repair=True)
    return {item.key for item in parse_scores(rows, str(run.scores))}


def _missing(cell: Cell, exam: Exam, done: set[tuple[str, str, int, str, int]]) -> bool:
    """Whether an episode of a cell in a domain is not in the table."""
    name = (cell.algorithm, cell.perception, cell.seed, exam.domain.id)
    return any((*name, number) not in done for number in range(exam.episodes))


def _refuse_untrained(run: RunDirectory, cells: Sequence[Cell]) -> None:
    untrained = [cell.id for cell in cells if not (run.agent(cell.id) / POLICY_FILE).exists()]
    if untrained:
        raise MissingFileError(
            f"not trained to the end in '{run.path}': {', '.join(untrained)};"
            " `darla train` with the same configuration goes on with them"
        )


def _scores(
    config: Config, suite: Suite, cell: Cell, exam: Exam, episodes: Sequence[Episode]
) -> list[Score]:
    """The table's lines for the episodes of a cell in a domain, numbered as they come."""
    decisions = 0 if cell == FLOOR else config.agents.decisions
    for number, episode in enumerate(episodes):
        if not math.isfinite(episode.return_):
            raise DarlaError(
                f"the return of {cell.id} in {exam.domain.id}, episode {number}, is not a number"
                f" ({episode.return_}); nothing of it was written"
            )
    return [
        Score(
            suite=suite.name,
            domain=exam.domain.id,
            tags=exam.tags,
            split=exam.split,
            algorithm=cell.algorithm,
            perception=cell.perception,
            seed=cell.seed,
            episode=number,
            layout_seed=(episode.seed, episode.env, episode.episode),
            value=episode.return_,
            length=episode.length,
            decisions=decisions,
            frames=decisions * config.environment.frame_skip,
            success=episode.success,
        )
        for number, episode in enumerate(episodes)
    ]


def _stage(cell: Cell) -> str:
    return "score/random" if cell == FLOOR else f"score/{cell.id}"
