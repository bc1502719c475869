"""The suites of the Jaco task; see `envs.suites`."""

from __future__ import annotations

from envs.domains import Domain, Suite, hold_out, product
from envs.jaco import JACO

_DESKS_AND_OBJECTS = product(JACO, desk=("A", "B"), object=("ball", "cube"))
_TARGET = JACO.domain(desk="B", object="ball")

#: One encoder-ood shift at a time, away from the values that every domain of D_U shares.
_SHIFTS: tuple[dict[str, str | float], ...] = (
    {"object": "can"},
    {"colour": "yellow"},
    {"size": 0.04},
    {"size": 0.07},
    {"table": "white"},
    {"table": "moss"},
    {"surface": "tiles"},
    {"backdrop": "rose"},
    {"wallpaper": "speckle"},
    {"arm": "black"},
    {"light": 0.7},
    {"light": 1.2},
    {"lamp": 110.0},
    {"azimuth": 38.0},
    {"elevation": 37.0},
    {"distance": 1.6},
    {"fov": 43.0},
)


def _other_target(target: Domain) -> Suite:
    """The suite `jaco` with another conjunction held out: to tune on, without its target."""
    desk, shape = (str(target.factors[name]) for name in ("desk", "object"))
    about = f"to tune on instead of `jaco`: held out is the {shape} on desk {desk}"
    return hold_out(f"jaco-{desk}-{shape}", about, JACO, _DESKS_AND_OBJECTS, target)


_SIM2SIM = hold_out(
    "jaco",
    "sim2sim: the ball on desk B, where the policy saw only cubes",
    JACO,
    _DESKS_AND_OBJECTS,
    _TARGET,
)

JACO_SUITES = (
    _SIM2SIM,
    Suite(
        "jaco-looks",
        "the same target and, one at a time, looks that the encoder never saw",
        JACO,
        d_u=_DESKS_AND_OBJECTS,
        d_s=_SIM2SIM.d_s,
        d_t=(
            _TARGET,
            *(JACO.domain(**{"desk": "B", "object": "cube", **shift}) for shift in _SHIFTS),
        ),
    ),
    Suite(
        "jaco-real",
        "sim2real stand-in: another look, camera, speed and delay than any source domain's",
        JACO,
        d_u=_DESKS_AND_OBJECTS,
        d_s=_SIM2SIM.d_s,
        d_t=tuple(
            JACO.domain(desk=desk, object=shape, scene="stand-in")
            for desk, shape in (("A", "ball"), ("A", "cube"))
        ),
    ),
    *(_other_target(domain) for domain in _SIM2SIM.d_s),
)
