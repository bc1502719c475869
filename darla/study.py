"""Does a disentangled vision transfer better? Rank correlations over the visions of a sweep.

1707.08475 (section 5) reports that the transfer of policies goes with the disentanglement of the
vision. Here every trial of a sweep is one vision with the policies trained on it: a point.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darla.storage import write_bytes, write_json

RESAMPLES = 2_000
FEWEST = 4
"""Visions below which no correlation is given."""
COLUMNS = 4
"""Panels of the scatter in one row."""
OUTCOMES = ("source", "target", "gap")


def correlate(x: Sequence[float], y: Sequence[float], rng: np.random.Generator) -> dict[str, Any]:
    """Spearman's rank correlation with a 95 % percentile bootstrap interval over the points.

    Args:
        x: One value per vision.
        y: Another.
        rng: Source of every draw.

    Returns:
        `rho`, `ci95` (low, high) and `visions`. `rho` and `ci95` are null for fewer than `FEWEST`
        points and where one side does not vary.
    """
    from scipy.stats import rankdata

    points = np.array([x, y], dtype=float)
    count = points.shape[1]
    empty = {"rho": None, "ci95": None, "visions": count}
    if count < FEWEST or not np.ptp(points, axis=1).all():
        return empty

    def rho(sample: np.ndarray) -> np.ndarray:
        """Pearson's correlation of ranks, [...] from [2, ..., N]."""
        ranks = rankdata(sample, axis=-1)
        ranks -= ranks.mean(-1, keepdims=True)
        scale = np.sqrt((ranks**2).sum(-1).prod(0))
        return (ranks[0] * ranks[1]).sum(-1) / np.where(scale > 0, scale, np.nan)

    drawn = rng.integers(count, size=(RESAMPLES, count))
    low, high = np.nanpercentile(rho(points[:, drawn]), [2.5, 97.5])
    return {"rho": float(rho(points)), "ci95": [float(low), float(high)], "visions": count}


def study(rows: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Correlates disentanglement with returns.

    Args:
        rows: Trials, as `darla.tuning.outcomes` returns them, of which policies on the mean of a
            beta-VAE count; those without scores are left out.
        rng: Source of every draw.

    Returns:
        `points`: per trial and policy `run`, `varied`, `algorithm`, `perception`, `source`,
        `target`, `gap` and the scores of `disentanglement`; `correlations`: per policy
        (`ec darla`), score and outcome what `correlate` returns.
    """
    points = [
        {"run": row["run"], "varied": row["varied"], **policy}
        | {"gap": policy["source"] - policy["target"], "disentanglement": _numbers(vision)}
        for row in rows
        for vision in row["visions"]
        if vision["disentanglement"]
        for policy in row["policies"]
        if policy["perception"] == vision["perception"]
        and None not in (policy["source"], policy["target"])
    ]
    correlations: dict[str, Any] = {}
    for name in dict.fromkeys(map(_policy, points)):
        own = [point for point in points if _policy(point) == name]
        correlations[name] = {
            score: {
                outcome: correlate(
                    [point["disentanglement"][score] for point in own],
                    [point[outcome] for point in own],
                    rng,
                )
                for outcome in OUTCOMES
            }
            for score in own[0]["disentanglement"]
        }
    return {"points": points, "correlations": correlations}


def _numbers(vision: Mapping[str, Any]) -> dict[str, float]:
    scores = vision["disentanglement"]
    return {key: value for key, value in scores.items() if key not in ("factors", "frames")}


def _policy(point: Mapping[str, Any]) -> str:
    return f"{point['algorithm']} {point['perception']}"


def write_study(result: Mapping[str, Any], folder: Path) -> None:
    """Writes `study.json` and, where there are points, `scatter.png` into a folder."""
    write_json(folder / "study.json", result)
    if result["points"]:
        write_bytes(folder / "scatter.png", scatter(result))


def scatter(result: Mapping[str, Any]) -> bytes:
    """Draws target return against every score that varies, a block of panels per policy.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[str, list[Mapping[str, Any]], str] | None] = []
    for name, scores in result["correlations"].items():
        own = [point for point in result["points"] if _policy(point) == name]
        shown = [s for s in scores if len({point["disentanglement"][s] for point in own}) > 1]
        shown = shown or list(scores)
        panels += [(name, own, score) for score in shown]
        panels += [None] * (-len(shown) % COLUMNS)
    settings = list(dict.fromkeys(_setting(point) for point in result["points"]))
    rows = len(panels) // COLUMNS
    figure = Figure((2.6 * COLUMNS, 2.7 * rows + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).ravel()
    for place, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
        if panel is None:
            axis.set_visible(False)
            continue
        name, own, score = panel
        for setting in settings:
            found = [point for point in own if _setting(point) == setting]
            values = [point["disentanglement"][score] for point in found]
            axis.scatter(values, [point["target"] for point in found], s=22, label=setting)
        correlation = result["correlations"][name][score]["target"]
        if correlation["rho"] is not None:
            low, high = correlation["ci95"]
            axis.set_title(f"ρ = {correlation['rho']:.2f} [{low:.2f}, {high:.2f}]", fontsize=9)
        axis.set_xlabel(score)
        if place % COLUMNS == 0:
            axis.set_ylabel(f"{name}\ntarget return")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _setting(point: Mapping[str, Any]) -> str:
    """What varied, but for the seed: one colour."""
    varied = point["varied"]
    return ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in varied.items() if k != "seed")
