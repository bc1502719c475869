"""How the report shows what the vision learned: tables and bars for `vision/report.json`.

What is known gets a table made for it: reconstruction errors, KL per latent, probes. Anything else
in the file is shown too, as an outline, so that a new measurement never goes unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from benchmarks import figures
from benchmarks.tables import grouped

MODELS = {"dae": "DAE", "vae": "VAE", "through_dae": "VAE, as the DAE reads it"}
UNITS = {
    "bearing": "median error, degrees",
    "distance": "median error, metres",
    **dict.fromkeys(
        ("target_x", "target_y", "hand_x", "hand_y", "hand_z"), "median error, centimetres"
    ),
}


def show_vision(report: Mapping[str, Any], frames: Mapping[str, Any]) -> Markup:
    """Shows `vision/report.json` and the facts of the frames stage."""
    left = dict(report)
    parts = []
    errors = {key: left.pop(key) for key in ("dae", "vae") if _is_errors(left.get(key))}
    if errors:
        parts.append(_errors(errors))
    if isinstance(left.get("latents"), Mapping) and _nested(left["latents"].get("kl_per_latent")):
        parts.append(_latents(left.pop("latents")))
    if isinstance(left.get("probe"), Mapping):
        parts.append(_probe(left.pop("probe")))
    own = left.pop("own", {})
    others = {**left, **own} if isinstance(own, Mapping) else {**left, "own": own}
    for name, part in others.items():
        if isinstance(part, Mapping) and isinstance(part.get("probe"), Mapping):
            rest = {key: value for key, value in part.items() if key != "probe"}
            parts.append(_probe(part["probe"], f"What {name} tells about the scene"))
            others[name] = rest
    left = {name: part for name, part in others.items() if part != {}}
    about = left.pop("frames", {})
    about = {**about, **frames} if isinstance(about, Mapping) else {"frames": about, **frames}
    if about:
        left = {"frames the vision was trained on": about, **left}
    if left:
        parts.append(outline(left))
    return Markup("").join(parts)


def _is_errors(value: Any) -> bool:
    return (
        isinstance(value, Mapping) and "pixels" in value and not any(map(_nested, value.values()))
    )


def _errors(models: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Errors on all pixels and on objects, one column per model."""
    columns: dict[str, dict[str, Any]] = {}
    for model, errors in models.items():
        for key, value in errors.items():
            if key.startswith("through_dae/"):
                columns.setdefault("through_dae", {})[key.removeprefix("through_dae/")] = value
            else:
                columns.setdefault(model, {})[key] = value
    columns = {name: columns[name] for name in MODELS if name in columns}
    measures = list(dict.fromkeys(key for column in columns.values() for key in column))
    labels = {"pixels": "all pixels, mean squared error", "objects": "object pixels, relative"}
    table = _table(
        [MODELS[name] for name in columns],
        [
            (
                labels.get(measure, f"… {measure.removeprefix('objects/')}"),
                [column.get(measure) for column in columns.values()],
            )
            for measure in measures
        ],
    )
    return Markup(
        "<h3>Reconstruction error on frames kept from training</h3>{}"
        "<p class=soft>On object pixels, 0 is perfect, and 1 is as wrong as a room without the"
        " object: at 1 and above, the object is not in the reconstruction; a spot in the object's"
        " place, without its shape, can be well below.</p>"
    ).format(table)


def _latents(latents: Mapping[str, Any]) -> Markup:
    """KL per latent in falling order."""
    values = sorted(latents["kl_per_latent"], reverse=True)
    words = f"{len(values)} latents"
    if "active_units" in latents:
        words = f"{latents['active_units']} of {len(values)} latents are active"
    if "kl" in latents:
        words += f"; {scalar(latents['kl'])} nats in all"
    figure = Markup(figures.bar_plot(values, "KL per latent, in nats, in falling order", "nats"))
    return Markup(
        "<h3>KL per latent</h3><figure>{}<figcaption>Nats per frame, in falling order: {}."
        "</figcaption></figure>"
    ).format(figure, words)


def _probe(
    probe: Mapping[str, Any], title: str = "What the latents tell about the scene"
) -> Markup:
    """What a linear read-out of the latents tells, beside chance."""
    rows = []
    for key, value in probe.items():
        if key.endswith("/chance"):
            continue
        name, _, rest = key.partition("/")
        label = f"{name}, where an object is in view" if rest == "visible" else _words(key)
        chance = probe.get(f"{key}/chance")
        unit = "accuracy" if chance is not None else UNITS.get(name, "median error, in its unit")
        rows.append((label, [value, chance, unit]))
    table = _table(["linear probe", "chance", "measure"], rows)
    return Markup("<h3>{}</h3>{}").format(title, table)


def _table(columns: Iterable[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> Markup:
    head = Markup("").join(Markup("<th scope=col>{}</th>").format(name) for name in columns)
    lines = [
        Markup("<tr><th scope=row>{}</th>{}</tr>").format(
            name, Markup("").join(Markup("<td>{}</td>").format(scalar(item)) for item in items)
        )
        for name, items in rows
    ]
    return Markup(
        '<div class="scroll"><table><thead><tr><td></td>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, Markup("").join(lines))


def outline(value: Any, title: str = "", level: int = 3) -> Markup:
    """Shows a nested dictionary: numbers as tables, lists of them as bars, the rest in sections."""
    if not isinstance(value, Mapping):
        return outline({title or "value": value}, "", level)
    parts = [Markup("<h{0}>{1}</h{0}>").format(level, _words(title))] if title else []
    plain = {key: item for key, item in value.items() if not _nested(item)}
    if plain:
        lines = [
            Markup("<tr><th scope=row>{}</th><td>{}</td></tr>").format(_words(key), scalar(item))
            for key, item in plain.items()
        ]
        parts.append(Markup('<table class="facts">{}</table>').format(Markup("").join(lines)))
    for key, item in value.items():
        if not _nested(item):
            continue
        if isinstance(item, Mapping):
            table = _matrix(item)
            if table is None:
                parts.append(outline(item, key, min(level + 1, 6)))
            else:
                parts.append(Markup("<h{0}>{1}</h{0}>{2}").format(level + 1, _words(key), table))
        else:
            heading = Markup("<h{0}>{1}</h{0}>").format(level + 1, _words(key))
            parts.append(heading + Markup(figures.bar_plot(item, _words(key))))
    return Markup('<div class="outline">{}</div>').format(Markup("").join(parts))


def _matrix(value: Mapping[str, Any]) -> Markup | None:
    """A table for dictionaries that all have the same plain fields, None for anything else."""
    rows = list(value.values())
    if len(rows) < 2 or not all(isinstance(row, Mapping) and row for row in rows):
        return None
    columns = list(rows[0])
    if any(list(row) != columns or any(_nested(item) for item in row.values()) for row in rows):
        return None
    return _table(
        [_words(name) for name in columns],
        [(_words(name), list(row.values())) for name, row in value.items()],
    )


def _nested(value: Any) -> bool:
    """Whether a value needs a section of its own: a dictionary, or a list of numbers worth bars."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and len(value) > 3 and all(_is_number(item) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scalar(value: Any) -> str:
    """A value of JSON for readers: three digits of a small number, grouped thousands of a large."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return grouped(value) if abs(value) >= 10_000 else str(value).replace("-", "−")
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "−") if abs(value) < 1e4 else grouped(round(value))
    if isinstance(value, list):
        return ", ".join(scalar(item) for item in value)
    return str(value)


def _words(key: str) -> str:
    return str(key).replace("_", " ")
