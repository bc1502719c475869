"""Stage 3: zero-shot scores of every trained cell, in its source domains and in unseen targets.

A scored episode is a line of `scores.jsonl`. Every cell plays the same layouts, since these follow
from `transfer.seed` and the Ray settings and never from the policy; nothing learns. The episodes of
a cell in a domain are written at once, and a repeated command plays only what is not there: it
finds a finished table after `kill -9` as well.

A cell whose training has not ended is refused, or on request scored by its last checkpoint; such
scores are tagged, and give way when the cell has been trained further.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from agents.acting import Episode
from agents.algorithms import POLICY_FILE, is_trained, load_policy
from agents.cells import Cell, perception_of
from agents.policy import Policy
from agents.pool import WorkerPool
from agents.training import checkpoints_of, load_unfinished
from benchmarks.scores import RANDOM_POLICY, UNFINISHED, EpisodeKey, Score, parse_scores
from darla.cluster import ray_session
from darla.config import Config
from darla.errors import DarlaError, DependencyError, MissingFileError
from darla.perception import Perception
from darla.progress import Progress
from darla.rundir import RunDirectory
from darla.storage import append_jsonl, read_jsonl, write_jsonl
from envs import make_vector
from envs.domains import ENCODER_OOD, Domain, Suite
from envs.registry import suite_of
from envs.sheet import draw_sheet

FLOOR = Cell(RANDOM_POLICY, "none", 0)
"""The uniform random policy, as a cell: the score of knowing nothing."""


TOGETHER = 12
"""Exams that a cell sits side by side: what it sees is encoded at once, and then written."""


class Player(Protocol):
    """Plays episodes, as `agents.pool.WorkerPool` does."""

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        exams: Sequence[tuple[Sequence[Domain], int]],
        *,
        epsilon: float,
        seed: int,
    ) -> list[list[Episode]]:
        """Plays so many episodes of each exam, in an order that does not depend on timing."""
        ...


@dataclass(frozen=True)
class Contestant:
    """What is scored.

    Attributes:
        policy: Acts; None is the uniform random policy.
        perception: What it sees through; None for the random policy.
        decisions: Decisions in D_S that it was trained for.
    """

    policy: Policy | None = None
    perception: Perception | None = None
    decisions: int = 0


Loader = Callable[[Cell, Any], Contestant]
"""Gives a cell's contestant; the second argument is what plays."""


@dataclass(frozen=True)
class Exam:
    """A domain to score in.

    Attributes:
        suite: Name of the suite.
        domain: The domain.
        tags: Its tags in the suite.
        split: 'source' or 'target'.
        episodes: Episodes of every cell.
    """

    suite: str
    domain: Domain
    tags: tuple[str, ...]
    split: str
    episodes: int

    @property
    def place(self) -> tuple[str, str]:
        """The part of an episode's key that says where it is played."""
        return (self.suite if self.split == "target" else "", self.domain.id)


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
        Exam(suite.name, domain, suite.tags(domain), split, math.ceil(episodes / len(domains)))
        for (split, _), domains in groups.items()
        for domain in domains
    ]


def score_transfer(
    config: Config,
    run: RunDirectory,
    cells: Sequence[Cell],
    *,
    suites: Sequence[Suite] = (),
    allow_unfinished: bool = False,
    quiet: bool = False,
) -> None:
    """Scores trained cells, and the random policy if it is wanted, into `scores.jsonl`.

    Args:
        config: The experiment; `suite`, `environment`, `ray` and `transfer` are read.
        run: Its run directory.
        cells: What to score.
        suites: What to score on, such as protocols; none: the run's own suite.
        allow_unfinished: Score cells that are not trained to their end by their last checkpoint,
            and leave out those that have none.
        quiet: Show no progress.

    Raises:
        MissingFileError: Cells are not trained to their end; the message names all of them.
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

    def load(cell: Cell, pool: WorkerPool) -> Contestant:
        perception = perception_of(run, cell.perception, cell.seed)
        if is_trained(run, cell):
            return Contestant(load_policy(run, cell), perception, config.agents.decisions)
        policy, decisions = load_unfinished(pool, config, run, cell, perception)
        return Contestant(policy, perception, decisions)

    score(
        config,
        run,
        cells,
        suites or [suite_of(config)],
        load=load,
        players=workers,
        allow_unfinished=allow_unfinished,
        quiet=quiet,
    )
    sheet = run.path / "domains.png"
    if not sheet.exists():
        # A picture for the report; without OpenGL, which `factors` does without, there is none.
        with suppress(DependencyError):
            draw_sheet(config, sheet)


def score(
    config: Config,
    run: RunDirectory,
    cells: Sequence[Cell],
    suites: Sequence[Suite],
    *,
    load: Loader,
    players: Callable[[], AbstractContextManager[Player]],
    allow_unfinished: bool = False,
    quiet: bool = False,
) -> None:
    """Scores cells on any suites; see `score_transfer`.

    Args:
        config: The experiment.
        run: Its run directory.
        cells: What to score.
        suites: What to score on; they share the source domains.
        load: Gives what is scored.
        players: Opens what plays; not called when there is nothing left to play.
        allow_unfinished: As in `score_transfer`.
        quiet: Show no progress.
    """
    exams: dict[tuple[str, str], Exam] = {}
    for suite in suites:
        for exam in exams_of(suite, config.transfer.episodes):
            exams.setdefault(exam.place, exam)
    table = _table(run)
    outdated = {item.key for item in table if UNFINISHED in item.tags and _outdated(run, item)}
    done = {item.key for item in table} - outdated
    marked = {item.cell for item in table if UNFINISHED in item.tags and item.key in done}
    unfinished = [cell for cell in cells if not is_trained(run, cell)]
    if allow_unfinished:
        cells = [cell for cell in cells if cell not in unfinished or checkpoints_of(run, cell)]
    contestants = [*cells, FLOOR] if config.transfer.random_policy else list(cells)
    pending = {
        cell: [exam for exam in exams.values() if _missing(cell, exam, done)]
        for cell in contestants
    }
    pending = {cell: own for cell, own in pending.items() if own}
    if not allow_unfinished:
        _refuse(run, [cell for cell in unfinished if cell in pending or cell in marked])
    if not pending:
        return
    # Only now do scores give way, and only those of cells that are about to be played.
    kept = [item for item in table if item.key in done or item.cell not in pending]
    if len(kept) < len(table):
        write_jsonl(run.scores, [item.row() for item in kept])
    each = sum(exam.episodes for exam in exams.values())
    total = each * len(contestants)
    played = total - sum(exam.episodes for own in pending.values() for exam in own)
    with players() as player, Progress("transfer", total, "episodes", quiet=quiet) as progress:
        progress.update(played)
        for cell, own in pending.items():
            stage = f"score/{'random' if cell == FLOOR else cell.id}"
            run.start(stage)
            contestant = Contestant() if cell == FLOOR else load(cell, player)
            tag = (UNFINISHED,) if cell in unfinished else ()
            for first in range(0, len(own), TOGETHER):
                sat = own[first : first + TOGETHER]
                parts = player.evaluate(
                    contestant.policy,
                    contestant.perception,
                    [([exam.domain], exam.episodes) for exam in sat],
                    epsilon=config.transfer.epsilon,
                    seed=config.transfer.seed,
                )
                for exam, episodes in zip(sat, parts, strict=True):
                    tags = (*exam.tags, *tag)
                    scores = _scores(config, cell, exam, contestant.decisions, tags, episodes)
                    new = [item for item in scores if item.key not in done]
                    append_jsonl(run.scores, [item.row() for item in new])
                    done |= {item.key for item in new}
                    played += exam.episodes
                progress.update(played, cell=cell.id)
            parents = [run.agent(cell.id) / POLICY_FILE] if is_trained(run, cell) else []
            run.finish(stage, parents=parents, episodes=each)


def _table(run: RunDirectory) -> list[Score]:
    """All scores that there are; cuts off a torn last line."""
    if not run.scores.exists():
        return []
    return parse_scores(read_jsonl(run.scores, repair=True), str(run.scores))


def _outdated(run: RunDirectory, item: Score) -> bool:
    """Whether an unfinished cell was trained further since it was scored."""
    newest = [int(path.stem) for path in checkpoints_of(run, item.cell)[-1:]]
    return is_trained(run, item.cell) or newest != [item.decisions]


def _missing(cell: Cell, exam: Exam, done: set[EpisodeKey]) -> bool:
    """Whether an episode of a cell in a domain is not in the table."""
    name = (cell.algorithm, cell.perception, cell.seed, *exam.place)
    return any((*name, number) not in done for number in range(exam.episodes))


def _refuse(run: RunDirectory, unfinished: Sequence[Cell]) -> None:
    if unfinished:
        raise MissingFileError(
            f"not trained to the end in '{run.path}': {', '.join(cell.id for cell in unfinished)};"
            " `darla train` with the same configuration goes on with them, and --allow-unfinished "
            "scores them as they are"
        )


def _scores(
    config: Config,
    cell: Cell,
    exam: Exam,
    decisions: int,
    tags: tuple[str, ...],
    episodes: Sequence[Episode],
) -> list[Score]:
    """The table's lines for the episodes of a cell in a domain, numbered as they come."""
    for number, episode in enumerate(episodes):
        if not math.isfinite(episode.return_):
            raise DarlaError(
                f"the return of {cell.id} in {exam.domain.id}, episode {number}, is not a number"
                f" ({episode.return_}); nothing of it was written"
            )
    return [
        Score(
            suite=exam.suite,
            domain=exam.domain.id,
            tags=tags,
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
