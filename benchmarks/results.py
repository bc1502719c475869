"""From score rows to results: a nested dictionary, a CSV, and tables for terminals and Markdown.

Everything but `read_scores` and `write_results` is a pure function of the rows of `scores.jsonl`:
the same rows in any order give the same results, bit for bit.

Scores are kept apart by what the target asks for. `target` holds the domains that are `policy-ood`
(the encoder saw their parts, the policy never saw the conjunction: DARLA's claim), `encoder_ood`
those with a factor value that the encoder never saw. The two are never averaged together.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.statistics import FEW_SEEDS, Estimate, SeedReturns, estimate, paired_gap
from darla.errors import CorruptFileError, MissingFileError
from darla.storage import read_jsonl, write_json, write_text
from envs.domains import ENCODER_OOD

if TYPE_CHECKING:
    from rich.table import Table

    from darla.rundir import RunDirectory

RANDOM_POLICY = "random-policy"
LABELS = {
    "darla": "DARLA",
    "beta-vae": "β-VAE, pixel loss",
    "dae": "DAE features",
    "pixels": "pixels, end to end",
    "random": "untrained encoder",
    "factors": "true factors (ceiling)",
    "none": "random policy (floor)",
}
"""What a perception is called in tables and plots, in their order."""

MEASURES = ("source", "target", "gap", "encoder_ood", "encoder_ood_gap")
_CSV_COLUMNS = (
    *("suite", "algorithm", "perception", "measure", "domain"),
    *("mean", "ci95_low", "ci95_high", "iqm", "iqm_ci95_low", "iqm_ci95_high"),
    *("seeds", "episodes", "decisions", "frames"),
)
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
        tags: The suite's tags of that domain.
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

    @property
    def key(self) -> tuple[str, str, int, str, int]:
        """What makes this episode one of a kind in a run."""
        return (self.algorithm, self.perception, self.seed, self.domain, self.episode)

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
        return {name: list(row[name]) if _TYPES[name] is list else row[name] for name in _TYPES}

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
        fields = {**row, "tags": tuple(row["tags"]), "layout_seed": tuple(row["layout_seed"])}
        fields["value"] = float(value)
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})


def parse_scores(rows: Iterable[Mapping[str, Any]], name: str = "scores.jsonl") -> list[Score]:
    """Reads the lines of a table of scores, and refuses an episode that is there twice.

    Raises:
        CorruptFileError: As `Score.of_row`, and on duplicates; the message names the line.
    """
    scores: list[Score] = []
    seen: dict[tuple[str, str, int, str, int], int] = {}
    for number, row in enumerate(rows, start=1):
        score = Score.of_row(row, f"{name}, line {number}")
        if score.key in seen:
            raise CorruptFileError(
                f"{name}, line {number}: the same episode as line {seen[score.key]}"
            )
        seen[score.key] = number
        scores.append(score)
    return scores


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


def write_results(run: RunDirectory) -> dict[str, Any]:
    """Writes the `results.json` and `results.csv` of a run from its scores.

    Raises:
        MissingFileError, CorruptFileError: As `read_scores`.
    """
    results = summarise(read_scores(run))
    write_json(run.results_json, results)
    write_text(run.results_csv, csv_table(results))
    return results


def summarise(scores: Sequence[Score], *, seed: int = 0) -> dict[str, Any]:
    """Summarises scores into a dictionary of JSON's types.

    Args:
        scores: Rows in any order.
        seed: Seed of the bootstrap. Every estimate draws from a generator of its own name, so that
            none depends on which others there are.

    Returns:
        `headline` (one sentence), `notes` (what limits the evidence, in sentences), `suite`, and
        `rows`: per algorithm and perception its `label`, `seeds`, `decisions`, `frames`, the
            estimates `source`, `target`, `gap`
        (source minus target), `encoder_ood` and `encoder_ood_gap`, each null where nothing was
        scored, and `domains`, a list of per-domain estimates. An estimate has `mean`, `iqm`,
        `ci95`, `iqm_ci95`, `seeds`, `episodes` and `over`.
    """
    cells: dict[tuple[str, str], list[Score]] = defaultdict(list)
    split_domains: dict[str, set[str]] = defaultdict(set)
    for score in sorted(scores, key=lambda score: score.key):
        cells[score.algorithm, score.perception].append(score)
        split_domains[score.group].add(score.domain)
    notes: list[str] = []
    rows = [_row(cells[cell], split_domains, seed, notes) for cell in sorted(cells, key=_order)]
    notes += _limits(rows)
    return {
        "headline": headline(rows),
        "notes": notes,
        "suite": ", ".join(sorted({score.suite for score in scores})),
        "bootstrap_seed": seed,
        "rows": rows,
    }


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence from the numbers: DARLA's target score, beside pixels, and what transfer cost.

    It never says more than the intervals do: a difference whose intervals touch is called
        unsettled, and a loss a loss.

    Args:
        rows: `rows` of `summarise`.
    """
    scored = [row for row in rows if row["target"] and row["algorithm"] != RANDOM_POLICY]
    if not scored:
        return "No trained policy has been scored in a target domain yet."
    by_perception = {row["perception"]: row for row in reversed(scored)}
    row = by_perception.get("darla", scored[0])
    rival = by_perception.get("pixels")
    text = f"Zero-shot in the target, {row['algorithm'].upper()} on {_vision(row)} scores"
    text += f" {format_estimate(row['target'])}"
    if rival is not None and rival is not row:
        text += f", {_comparison(row['target'], rival['target'])} {_vision(rival)}"
        text += f" {_budgets(row, rival)}"
    if row["gap"]:
        text += f"; {_cost(row['gap'])}"
    return f"{text} (95 % intervals; {_evidence(row['target'])})."


def csv_table(results: Mapping[str, Any]) -> str:
    """All estimates as CSV, one a line; `domain` is empty where one ranges over a whole split."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    for row in results["rows"]:
        estimates = [(measure, "", row[measure]) for measure in MEASURES if row[measure]]
        estimates += [(each["group"], each["domain"], each["score"]) for each in row["domains"]]
        for measure, domain, entry in estimates:
            writer.writerow(
                [results["suite"], row["algorithm"], row["perception"], measure, domain]
                + [entry["mean"], *entry["ci95"], entry["iqm"], *entry["iqm_ci95"]]
                + [entry["seeds"], entry["episodes"], row["decisions"], row["frames"]]
            )
    return buffer.getvalue()


def terminal_table(results: Mapping[str, Any]) -> Table:
    """Source, target and gap of every row, with 95 % intervals, for a terminal."""
    from rich.table import Table

    table = Table(title=results["headline"], title_justify="left", title_style="bold")
    header, *lines = _cells(results)
    for name in header:
        table.add_column(name, justify="left" if name in ("algorithm", "perception") else "right")
    for line in lines:
        table.add_row(*line)
    return table


def markdown_table(results: Mapping[str, Any]) -> str:
    """The table of `terminal_table` in Markdown, for a README, ending in a newline."""
    header, *lines = _cells(results)
    rule = [":--" if name in ("algorithm", "perception") else "--:" for name in header]
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *lines))


def format_estimate(entry: Mapping[str, Any] | None) -> str:
    """`mean [low, high]` with two decimals, or a dash where nothing was scored."""
    if not entry:
        return "–"
    low, high = entry["ci95"]
    return f"{number(entry['mean'])} [{number(low)}, {number(high)}]"


def number(value: float, decimals: int = 2) -> str:
    """A number with a true minus sign and without a negative zero."""
    text = f"{value:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def grouped(value: int) -> str:
    """An integer with thin no-break spaces between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def _row(
    scores: Sequence[Score], split_domains: Mapping[str, set[str]], seed: int, notes: list[str]
) -> dict[str, Any]:
    """Summarises one algorithm on one perception; notes what had to be left out."""
    algorithm, perception = scores[0].algorithm, scores[0].perception
    name = algorithm if perception == "none" else f"{algorithm} on {perception}"
    returns: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for score in scores:
        returns[score.group][score.seed].setdefault(score.domain, []).append(score.value)

    complete: dict[str, dict[int, SeedReturns]] = {}
    for group in ("source", "target", "encoder_ood"):
        played = returns.get(group, {})
        complete[group] = {s: d for s, d in played.items() if set(d) == split_domains[group]}
        dropped = sorted(set(played) - set(complete[group]))
        if dropped:
            notes.append(
                f"{name}: seed(s) {dropped} lack domains of {group} and are left out of its score."
            )

    def draw(*words: str) -> np.random.Generator:
        return _generator(seed, algorithm, perception, *words)

    row: dict[str, Any] = {
        "algorithm": algorithm,
        "perception": perception,
        "label": LABELS.get(perception, perception),
        "seeds": sorted({score.seed for score in scores}),
        "decisions": max(score.decisions for score in scores),
        "frames": max(score.frames for score in scores),
    }
    for group, seeds in complete.items():
        row[group] = _entry(estimate(list(seeds.values()), draw(group))) if seeds else None
    for measure, group in (("gap", "target"), ("encoder_ood_gap", "encoder_ood")):
        both = sorted(set(complete["source"]) & set(complete[group]))
        row[measure] = (
            _entry(
                paired_gap(
                    [complete["source"][s] for s in both],
                    [complete[group][s] for s in both],
                    draw(measure),
                )
            )
            if both
            else None
        )
    row["domains"] = [
        {
            "domain": domain,
            "group": group,
            "tags": list(next(score.tags for score in scores if score.domain == domain)),
            "score": _entry(
                estimate(
                    [{domain: d[domain]} for d in seeds.values() if domain in d],
                    draw(group, domain),
                )
            ),
        }
        for group, seeds in returns.items()
        for domain in sorted({domain for played in seeds.values() for domain in played})
    ]
    if len({score.frames for score in scores}) > 1:
        notes.append(f"{name}: its seeds were trained for different numbers of frames.")
    return row


def _order(cell: tuple[str, str]) -> tuple[bool, str, int, str]:
    """Sorts rows: the random policy last, algorithms together, perceptions as in LABELS."""
    algorithm, perception = cell
    known = list(LABELS)
    place = known.index(perception) if perception in known else len(known)
    return (algorithm == RANDOM_POLICY, algorithm, place, perception)


def _generator(seed: int, *words: str) -> np.random.Generator:
    """A generator that depends on a seed and a name alone."""
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def _entry(value: Estimate) -> dict[str, Any]:
    return {
        "mean": value.mean,
        "iqm": value.iqm,
        "ci95": list(value.ci95),
        "iqm_ci95": list(value.iqm_ci95),
        "seeds": value.seeds,
        "episodes": value.episodes,
        "over": value.over,
    }


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before trusting the intervals."""
    trained = [row for row in rows if row["algorithm"] != RANDOM_POLICY]
    fewest = min((len(row["seeds"]) for row in trained), default=FEW_SEEDS)
    if fewest == 1:
        return [
            "One training seed: the intervals range over episodes only. They cover the luck of the"
            " evaluation, not that of the training; another seed may score differently."
        ]
    if fewest < FEW_SEEDS:
        return [
            f"Only {fewest} training seeds (fewer than {FEW_SEEDS}): a bootstrap over so few"
            " trainings gives intervals that are too narrow."
        ]
    return []


def _vision(row: Mapping[str, Any]) -> str:
    names = {
        "darla": "DARLA's frozen vision",
        "beta-vae": "a pixel-loss β-VAE",
        "pixels": "end-to-end pixels",
        "random": "an untrained encoder",
        "factors": "the true factors",
    }
    return names.get(row["perception"], row["label"])


def _comparison(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """'more' or 'less' only when the intervals are apart."""
    difference = ours["mean"] - theirs["mean"]
    if ours["ci95"][0] > theirs["ci95"][1] or ours["ci95"][1] < theirs["ci95"][0]:
        return f"{number(abs(difference))} {'more' if difference > 0 else 'less'} than on"
    return f"not told apart from {format_estimate(theirs)} on"


def _budgets(row: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    if row["frames"] == rival["frames"]:
        return "after the same frames in the source"
    return f"after {grouped(row['frames'])} against {grouped(rival['frames'])} frames in the source"


def _cost(gap: Mapping[str, Any]) -> str:
    low, high = gap["ci95"]
    if low <= 0 <= high:
        return f"the gap to its source, {format_estimate(gap)}, is within noise"
    if gap["mean"] > 0:
        return f"from source to target it loses {format_estimate(gap)}"
    gain = {"mean": -gap["mean"], "ci95": (-high, -low)}
    return f"from source to target it gains {format_estimate(gain)}"


def _evidence(entry: Mapping[str, Any]) -> str:
    return "one seed, so over episodes only" if entry["seeds"] == 1 else f"{entry['seeds']} seeds"


def _cells(results: Mapping[str, Any]) -> list[list[str]]:
    """The header and the lines of the result table, as text."""
    extra = any(row["encoder_ood"] for row in results["rows"])
    header = ["algorithm", "perception", "source", "target", "gap", "seeds", "episodes", "frames"]
    if extra:
        header.insert(5, "encoder-ood")
    lines = [header]
    for row in results["rows"]:
        episodes = sum(entry["score"]["episodes"] for entry in row["domains"])
        line = [row["algorithm"], row["label"]]
        line += [format_estimate(row[measure]) for measure in ("source", "target", "gap")]
        line += [str(len(row["seeds"])), grouped(episodes), grouped(row["frames"])]
        if extra:
            line.insert(5, format_estimate(row["encoder_ood"]))
        lines.append(line)
    return lines
