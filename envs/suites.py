"""The simulators that are built in, with their suites; `envs.registry` finds them by name.

A suite says what the vision sees (D_U), where the policy learns (D_S) and is scored (D_T).
"""

from __future__ import annotations

from envs import deepmind_lab, make_jaco_vector, make_lab_vector
from envs.domains import ENCODER_OOD, POLICY_OOD, Domain, Suite, hold_out, product
from envs.jaco_suites import JACO_SUITES
from envs.lab import LAB
from envs.protocols import Shift, make_protocol
from envs.registry import Simulator

_ROOMS_AND_PAIRS = product(LAB, room=("A", "B"), pair=("hat-can", "cake-balloon"))
_TARGET = LAB.domain(room="B", pair="hat-can")


def _other_target(target: Domain) -> Suite:
    """The paper's suite with another conjunction held out: to tune on, without its target."""
    room, pair = (str(target.factors[name]) for name in ("room", "pair"))
    about = f"to tune on instead of `lab`: held out is {pair} in room {room}"
    return hold_out(f"lab-{room}-{pair}", about, LAB, _ROOMS_AND_PAIRS, target)


LAB_PAPER = hold_out(
    "lab",
    "the paper's: hats and cans in room B, where the policy saw only cakes and balloons",
    LAB,
    _ROOMS_AND_PAIRS,
    _TARGET,
)

# Room B has red walls and a blue floor, room A green walls and an orange floor.
#       factor     tag          published values             fresh targets draw from
LAB_SINGLE = (
    Shift("walls", POLICY_OOD, ("green",)),
    Shift("floor", POLICY_OOD, ("orange",)),
    Shift("walls", ENCODER_OOD, ("grey", "purple", "teal")),
    Shift("floor", ENCODER_OOD, ("grey", "brown", "olive")),
    Shift("objects", ENCODER_OOD, ("pastel",)),
    Shift("light", ENCODER_OOD, (0.4, 0.6, 0.8, 1.25, 1.5), ((0.4, 0.8), (1.2, 1.5))),
    Shift("height", ENCODER_OOD, (0.3, 0.65, 0.8, 1.1), ((0.2, 0.35), (0.65, 1.2))),
    Shift("pitch", ENCODER_OOD, (-5.0, 0.0, 14.0, 20.0), ((-8.0, 2.0), (12.0, 22.0))),
    Shift("fov", ENCODER_OOD, (50.0, 85.0, 100.0), ((45.0, 60.0), (80.0, 105.0))),
)
LAB_PAIRS = (
    Shift("walls", ENCODER_OOD, ("purple",), ("grey", "teal")),
    Shift("floor", ENCODER_OOD, ("brown",), ("grey", "olive")),
    Shift("objects", ENCODER_OOD, ("pastel",), ("pastel",)),
    Shift("light", ENCODER_OOD, (0.6,), ((0.4, 0.8), (1.2, 1.5))),
    Shift("height", ENCODER_OOD, (0.8,), ((0.2, 0.35), (0.65, 1.2))),
    Shift("pitch", ENCODER_OOD, (14.0,), ((-8.0, 2.0), (12.0, 22.0))),
    Shift("fov", ENCODER_OOD, (85.0,), ((45.0, 60.0), (80.0, 105.0))),
)
_START = LAB.domain(room="B", pair="cake-balloon")

LAB_SUITES = (
    LAB_PAPER,
    Suite(
        "lab-minimal",
        "the same, but the vision too never saw hats and cans in room B",
        LAB,
        d_u=LAB_PAPER.d_s,
        d_s=LAB_PAPER.d_s,
        d_t=(_TARGET,),
    ),
    make_protocol(
        "lab-single",
        "cakes and balloons in room B, a source, with one factor moved",
        LAB_PAPER,
        _START,
        LAB_SINGLE,
    ),
    make_protocol(
        "lab-pairs",
        "cakes and balloons in room B, a source, with two factors moved at once",
        LAB_PAPER,
        _START,
        LAB_PAIRS,
        together=2,
    ),
    *(_other_target(domain) for domain in LAB_PAPER.d_s),
)

DMLAB_SUITES = (
    Suite(
        "deepmind-lab",
        "the paper's, on DeepMind Lab's own levels for training and testing",
        deepmind_lab.DMLAB,
        d_u=deepmind_lab.PINNED,
        d_s=(deepmind_lab.TRAIN,),
        d_t=(deepmind_lab.TEST,),
    ),
    hold_out(
        "deepmind-lab-pinned",
        "the same conjunctions, each a domain of its own, on our level",
        deepmind_lab.DMLAB,
        deepmind_lab.PINNED,
        deepmind_lab.DMLAB.domain(room="B", pair="hat-can"),
    ),
)

SIMULATORS = (
    Simulator("darla/Lab-v0", make_lab_vector, LAB_SUITES),
    Simulator("darla/Jaco-v0", make_jaco_vector, JACO_SUITES),
    Simulator(
        "darla/DeepMindLab-v0",
        deepmind_lab.make_dmlab_vector,
        DMLAB_SUITES,
        check=deepmind_lab.import_deepmind_lab,
    ),
)
