"""The simulators that are built in, with their suites; `envs.registry` finds them by name.

A suite says what the vision sees (D_U), where the policy learns (D_S) and is scored (D_T).
"""

from __future__ import annotations

from envs import make_jaco_vector, make_lab_vector
from envs.domains import Domain, Suite, product
from envs.jaco_suites import JACO_SUITES
from envs.lab import LAB
from envs.registry import Simulator

_ROOMS_AND_PAIRS = product(LAB, room=("A", "B"), pair=("hat-can", "cake-balloon"))
_TARGET = LAB.domain(room="B", pair="hat-can")
_SOURCES = tuple(domain for domain in _ROOMS_AND_PAIRS if domain != _TARGET)

#: One encoder-ood shift at a time, away from the values that every domain of D_U shares.
_SHIFTS: tuple[dict[str, str | float], ...] = (
    {"walls": "grey"},
    {"walls": "purple"},
    {"floor": "grey"},
    {"floor": "brown"},
    {"objects": "pastel"},
    {"light": 0.6},
    {"light": 1.25},
    {"height": 0.8},
    {"pitch": 14.0},
    {"fov": 85.0},
)


def _other_target(target: Domain) -> Suite:
    """The paper's suite with another conjunction held out: to tune on, without its target."""
    room, pair = (str(target.factors[name]) for name in ("room", "pair"))
    return Suite(
        f"lab-{room}-{pair}",
        f"to tune on instead of `lab`: held out is {pair} in room {room}",
        LAB,
        d_u=_ROOMS_AND_PAIRS,
        d_s=tuple(domain for domain in _ROOMS_AND_PAIRS if domain != target),
        d_t=(target,),
    )


LAB_SUITES = (
    Suite(
        "lab",
        "the paper's: hats and cans in room B, where the policy saw only cakes and balloons",
        LAB,
        d_u=_ROOMS_AND_PAIRS,
        d_s=_SOURCES,
        d_t=(_TARGET,),
    ),
    Suite(
        "lab-minimal",
        "the same, but the vision too never saw hats and cans in room B",
        LAB,
        d_u=_SOURCES,
        d_s=_SOURCES,
        d_t=(_TARGET,),
    ),
    Suite(
        "lab-looks",
        "the paper's target and, one at a time, looks that the encoder never saw",
        LAB,
        d_u=_ROOMS_AND_PAIRS,
        d_s=_SOURCES,
        d_t=(
            _TARGET,
            *(LAB.domain(room="B", pair="cake-balloon", **shift) for shift in _SHIFTS),
        ),
    ),
    *(_other_target(domain) for domain in _SOURCES),
)

SIMULATORS = (
    Simulator("darla/Lab-v0", make_lab_vector, LAB_SUITES),
    Simulator("darla/Jaco-v0", make_jaco_vector, JACO_SUITES),
)
