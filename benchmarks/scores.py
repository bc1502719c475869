"""The table of scores: one line of `scores.jsonl` per finished episode.

Scores are kept apart by what the target asks for. `target` holds the domains that are `policy-ood`
(the encoder saw their parts, the policy never saw the conjunction: DARLA's claim), `encoder_ood`
those with a factor value that the encoder never saw. The two are never averaged together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from agents.cells import Cell
from darla.errors import CorruptFileError, MissingFileError
from darla.storage import read_jsonl
from envs.domains import ENCODER_OOD

if TYPE_CHECKING:
    from darla.rundir import RunDirectory

EpisodeKey = tuple[str, str, int, str, str, int]
"""Algorithm, perception, seed, suite (empty in a source domain), domain and number."""

RANDOM_POLICY = "random-policy"
UNFINISHED = "unfinished"
"""Tag of the scores of a policy whose training had not ended."""
GROUPS = ("source", "target", "encoder_ood")
"""What the scores of a row are kept apart by."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "suite": str,
    "domain": str,
    "tags": list,
    "split": str,
    "algorithm": str,
    "perception": str,
    "seed": int,
    "episode": int,
    "layout_seed": list,
    "return": (int, float),
    "length": int,
    "decisions": int,
    "frames": int,
}


@dataclass(frozen=True)
class Score:
    """One finished episode: a line of `scores.jsonl`.

    Attributes:
        suite: Name of the suite.
        domain: Id of the domain that was played.
        tags: The suite's tags of that domain, and 'unfinished' where the training had not ended.
        split: 'source' or 'target'.
        algorithm: 'dqn' and the like, or 'random-policy'.
        perception: Name of the perception, 'none' for the random policy.
        seed: Training seed of the policy, 0 for the random policy.
        episode: Number of the episode within this cell and domain.
        layout_seed: (seed, environment, episode): what the layout was drawn from, equal for every
            cell.
        value: Undiscounted return.
        length: Decisions that the episode lasted.
        decisions: Decisions in D_S that the policy was trained for.
        frames: Simulation frames that those decisions lasted.
        success: Whether the goal was reached in it; None, and not in the line, where the world
            reports none.
    """

    suite: str
    domain: str
    tags: tuple[str, ...]
    split: str
    algorithm: str
    perception: str
    seed: int
    episode: int
    layout_seed: tuple[int, ...]
    value: float
    length: int
    decisions: int
    frames: int
    success: bool | None = None

    @property
    def key(self) -> EpisodeKey:
        """What makes this episode one of a kind in a run; all protocols share the sources."""
        suite = "" if self.split == "source" else self.suite
        return (self.algorithm, self.perception, self.seed, suite, self.domain, self.episode)

    @property
    def cell(self) -> Cell:
        """Who played it."""
        return Cell(self.algorithm, self.perception, self.seed)

    @property
    def group(self) -> str:
        """The name of what is split by: 'source', 'target' or 'encoder_ood'."""
        if self.split == "source":
            return "source"
        return "encoder_ood" if ENCODER_OOD in self.tags else "target"

    def row(self) -> dict[str, Any]:
        """The line of `scores.jsonl`, with JSON's types."""
        row = asdict(self)
        row["return"] = row.pop("value")
        line = {name: list(row[name]) if _TYPES[name] is list else row[name] for name in _TYPES}
        return line if self.success is None else {**line, "success": self.success}

    @classmethod
    def of_row(cls, row: Mapping[str, Any], where: str) -> Score:
        """Reads a line of `scores.jsonl`.

        Args:
            row: The line.
            where: What to call the line in errors, such as 'scores.jsonl, line 3'.

        Raises:
            CorruptFileError: On missing fields, wrong types, unknown splits, and scores that are
                not finite.
        """
        missing = [name for name in _TYPES if name not in row]
        if missing:
            raise CorruptFileError(f"{where}: the field(s) {', '.join(missing)} are missing")
        value = row["return"]
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise CorruptFileError(
                f"{where}: the return of {row['algorithm']} on {row['perception']}, seed"
                f" {row['seed']}, in {row['domain']}, episode {row['episode']}, is not a number"
                f" ({value}); remove the line and score again"
            )
        for name, kind in _TYPES.items():
            if not isinstance(row[name], kind) or isinstance(row[name], bool):
                raise CorruptFileError(f"{where}: '{name}' holds {row[name]!r}")
        if row["split"] not in ("source", "target"):
            raise CorruptFileError(
                f"{where}: 'split' holds {row['split']!r}; allowed are 'source' and 'target'"
            )
        if not isinstance(row.get("success", False), bool):
            raise CorruptFileError(f"{where}: 'success' holds {row['success']!r}")
        fields = {"success": None, **row}
        fields |= {"tags": tuple(row["tags"]), "layout_seed": tuple(row["layout_seed"])}
        fields["value"] = float(value)
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


def parse_scores(rows: Iterable[Mapping[str, Any]], name: str = "scores.jsonl") -> list[Score]:
    """Reads the lines of a table of scores, and refuses an episode that is there twice.

    Raises:
        CorruptFileError: As `Score.of_row`, and on duplicates; the message names the line.
    """
    scores: list[Score] = []
    seen: dict[EpisodeKey, int] = {}
    for number, row in enumerate(rows, start=1):
        score = Score.of_row(row, f"{name}, line {number}")
        if score.key in seen:
            raise CorruptFileError(
                f"{name}, line {number}: the same episode as line {seen[score.key]}"
            )
        seen[score.key] = number
        scores.append(score)
    return scores


def by_protocol(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Returns the rows of every suite that targets were scored in, each with all source rows.

    The targets of two protocols are never averaged together.
    """
    sources = [score for score in scores if score.split == "source"]
    targets = [score for score in scores if score.split == "target"]
    names = dict.fromkeys(score.suite for score in targets)
    return {name: sources + [each for each in targets if each.suite == name] for name in names}


def read_scores(run: RunDirectory) -> list[Score]:
    """Reads the scores of a run.

    Raises:
        MissingFileError: When nothing was scored yet.
        CorruptFileError: When a line is not a score; the message names file and line.
    """
    if not run.scores.exists():
        raise MissingFileError(
            f"{run.scores} does not exist: nothing was scored yet, so run `darla transfer` first"
        )
    return parse_scores(read_jsonl(run.scores), str(run.scores))
