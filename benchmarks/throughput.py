"""Speed beside peers: `python -m benchmarks.throughput env|vision|agents|ec` prints JSON lines.

Every measurement has a process of its own, with pinned threads, and no other contender is alive
meanwhile: a Ray cluster that idles takes a twentieth of a core. Rounds are interleaved: in each one
all contenders work for the same time, one after the other. `value` and `peer_value` are medians
over rounds, `ratio` is the median of the rounds' ratios, since whatever else slows the machine
slows both sides of a round. `rounds` holds every measurement as [ours, peer].
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.contenders import Contender, agents, memory, vision, worlds
from darla.errors import DarlaError, DependencyError
from darla.rundir import installed_versions

_SECONDS_TO_CLOSE = 30
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = (
    "torch",
    "numpy",
    "mujoco",
    "dm_control",
    "ray",
    "miniworld",
    "pyglet",
    "pythae",
    "stable-baselines3",
    "faiss-cpu",
)


@dataclass(frozen=True)
class Side:
    """Something to measure.

    Attributes:
        name: What it is called in the output.
        contender: Prepares it.
        threads: Threads of its process.
        processes: How many such processes work side by side; their rates are added.
    """

    name: str
    contender: Contender
    threads: int
    processes: int = 1


@dataclass(frozen=True)
class Figure:
    """A line of output: one side beside another.

    Attributes:
        name: Name of the figure.
        unit: Unit of both values.
        ours: Name of a side.
        peer: Name of another side.
        inverted: Whether the ratio is that of times and not of rates (peer / ours).
    """

    name: str
    unit: str
    ours: str
    peer: str
    inverted: bool = False


def measure(sides: Sequence[Side], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Rates of every side in every round.

    Args:
        sides: What to measure, in the order of a round.
        rounds: Number of rounds.
        seconds: Seconds of a side in a round.

    Raises:
        DependencyError, DarlaError: What a contender raised while it was prepared or measured.
    """
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rates[side.name].append(_measured(side, seconds))
    return rates


def _measured(side: Side, seconds: float) -> float:
    """Prepares a side in processes of its own, and returns the sum of their rates."""
    started = [_start(side) for _ in range(side.processes)]
    try:
        for _, pipe in started:
            _answer(pipe)
        for _, pipe in started:
            pipe.send(seconds)
        return sum(_answer(pipe) for _, pipe in started)
    finally:
        for process, pipe in started:
            pipe.close()
            process.join(_SECONDS_TO_CLOSE)
            process.kill()


def line(
    figure: Figure, rates: Mapping[str, Sequence[float]], threads: Mapping[str, int]
) -> dict[str, Any]:
    """The JSON line of a figure.

    Args:
        figure: What to compare.
        rates: As `measure` returns them.
        threads: Threads of every side.
    """
    pairs = list(zip(rates[figure.ours], rates[figure.peer], strict=True))
    ratios = [peer / ours if figure.inverted else ours / peer for ours, peer in pairs]
    return {
        "figure": figure.name,
        "value": round(statistics.median(ours for ours, _ in pairs), 1),
        "unit": figure.unit,
        "peer": figure.peer,
        "peer_value": round(statistics.median(peer for _, peer in pairs), 1),
        "ratio": round(statistics.median(ratios), 3),
        "rounds": [[round(ours, 1), round(peer, 1)] for ours, peer in pairs],
        "threads": {"ours": threads[figure.ours], "peer": threads[figure.peer]},
        "cpus": os.cpu_count(),
        "versions": installed_versions(PACKAGES),
    }


def env_lines(rounds: int, seconds: float, threads: int | None) -> list[dict[str, Any]]:
    """Frames and whole steps of the Lab and the Jaco task beside peers, one process each.

    The Lab's peer is MiniWorld's PickupObjects, the Jaco task's dm_control's own reaching task.
    """
    _need("miniworld", "MiniWorld")
    count = threads or 1
    few = functools.partial(worlds.miniworld_frames, 5)
    sides = [
        Side("Lab, random poses", worlds.lab_frames, count),
        Side("MiniWorld PickupObjects, 20 objects", worlds.miniworld_frames, count),
        Side("MiniWorld PickupObjects, its own 5 objects", few, count),
        Side("Lab, steps", worlds.lab_steps, count),
        Side("MiniWorld PickupObjects, 20 objects, steps", worlds.miniworld_steps, count),
        Side("Jaco, steps", worlds.jaco_steps, count),
        Side("dm_control reach_site_vision, steps", worlds.dm_control_steps, count),
    ]
    lab, crowded, own, lab_steps, their_steps, jaco, reach = (side.name for side in sides)
    figures = [
        Figure("env.frames", "frames/s", lab, crowded),
        Figure("env.frames.default", "frames/s", lab, own),
        Figure("env.steps", "frames/s", lab_steps, their_steps),
        Figure("env.jaco", "frames/s", jaco, reach),
    ]
    return _lines(sides, figures, rounds, seconds)


def vision_lines(rounds: int, seconds: float, threads: int | None) -> list[dict[str, Any]]:
    """Training steps of our beta-VAE beside pythae's, and of the DAE term beside the pixel term.

    `vision.pixel` compares both in float32. `vision.pixel.default` and `vision.dae_step_time` take
    our default precision, which is bfloat16 where the processor computes it natively.
    """
    _need("pythae", "pythae")
    count = threads or os.cpu_count() or 1
    own = functools.partial(vision.vae_images, "pixel", "auto")
    dae = functools.partial(vision.vae_images, "dae", "auto")
    sides = [
        Side("beta-VAE, float32", vision.vae_images, count),
        Side("pythae BetaVAE, our networks, its trainer", vision.pythae_trainer_images, count),
        Side("pythae BetaVAE, our networks, bare step", vision.pythae_step_images, count),
        Side("beta-VAE, pixel term", own, count),
        Side("beta-VAE, DAE term", dae, count),
    ]
    ours, trainer, bare, pixel, dae_term = (side.name for side in sides)
    figures = [
        Figure("vision.pixel", "images/s", ours, trainer),
        Figure("vision.pixel.bare", "images/s", ours, bare),
        Figure("vision.pixel.default", "images/s", pixel, trainer),
        Figure("vision.dae_step_time", "images/s", dae_term, pixel, inverted=True),
    ]
    return [*_lines(sides, figures, rounds, seconds), _elbo_line(count)]


def agents_lines(rounds: int, seconds: float, threads: int | None) -> list[dict[str, Any]]:
    """Decisions of our DQN and A3C beside peers', and what it costs to encode rooms one by one.

    All agents play the same task on the same latents, with the same networks; each DQN has the same
    update ratio as ours, A2C the same length of rollouts as A3C. What a second worker brings is
    measured twice: with A3C's learner beside it, and in scoring, where nothing learns. Beside it,
    `agents.cores` is what the machine allows: two processes that step rooms and encode them, and
    have nothing to do with each other.
    """
    _need("stable_baselines3", "Stable-Baselines3")
    count = threads or os.cpu_count() or 1
    one_by_one = functools.partial(agents.latent_steps, False)
    two_workers = functools.partial(agents.decisions, "a3c")
    one_worker = functools.partial(agents.decisions, "a3c", 1)
    scored_by_one = functools.partial(agents.scoring, 1)
    sides = [
        Side("DQN, two Ray workers and a learner", agents.decisions, 1),
        Side("Stable-Baselines3 DQN, same latents", agents.dqn_sb3, count),
        Side("RLlib DQN, same latents", agents.dqn_rllib, count),
        Side("A3C, two Ray workers and a learner", two_workers, 1),
        Side("A3C, one Ray worker and a learner", one_worker, 1),
        Side("Stable-Baselines3 A2C, same latents", agents.a2c_sb3, count),
        Side("Scoring, two Ray workers", agents.scoring, 1),
        Side("Scoring, one Ray worker", scored_by_one, 1),
        Side("Latents of 8 rooms, one batch", agents.latent_steps, 1),
        Side("Latents of 8 rooms, a wrapper each", one_by_one, 1),
        Side("Latents of 8 rooms, two processes", agents.latent_steps, 1, processes=2),
    ]
    names = (side.name for side in sides)
    dqn, dqn_sb3, dqn_rllib, a3c, a3c_alone, a2c, scored, scored_alone, *latents = names
    batch, single, both = latents
    figures = [
        Figure("agents.dqn", "decisions/s", dqn, dqn_sb3),
        Figure("agents.dqn.rllib", "decisions/s", dqn, dqn_rllib),
        Figure("agents.a3c", "decisions/s", a3c, a2c),
        Figure("agents.a3c.workers", "decisions/s", a3c, a3c_alone),
        Figure("agents.scoring.workers", "decisions/s", scored, scored_alone),
        Figure("agents.cores", "steps/s", both, batch),
        Figure("agents.latents", "steps/s", batch, single),
    ]
    return _lines(sides, figures, rounds, seconds)


def ec_lines(rounds: int, seconds: float, threads: int | None) -> list[dict[str, Any]]:
    """Look-ups of episodic control beside FAISS's exact index, by size of the table and batch."""
    _need("faiss", "FAISS")
    count = threads or 1
    sides, figures = [], []
    for entries, batch in ((10**3, 8), (10**4, 8), (10**5, 8), (10**5, 1), (10**5, 16)):
        words = f"{entries} x {memory.LATENTS}, batch {batch}"
        ours = Side(f"Table, {words}", functools.partial(memory.ec_lookups, entries, batch), count)
        peer = Side(
            f"FAISS IndexFlatL2, {words}",
            functools.partial(memory.faiss_lookups, entries, batch),
            count,
        )
        sides += [ours, peer]
        figures.append(Figure(f"ec.{entries}.{batch}", "look-ups/s", ours.name, peer.name))
    return _lines(sides, figures, rounds, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    benchmarks = {"env": env_lines, "vision": vision_lines, "agents": agents_lines, "ec": ec_lines}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("benchmark", choices=benchmarks, help="what to measure")
    parser.add_argument("--rounds", type=_positive(int), default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--seconds", type=_positive(float), default=4.0, help="seconds of a side (default: 4)"
    )
    parser.add_argument(
        "--threads",
        type=_positive(int),
        help="threads of a process (default: 1, vision all CPUs, peers of agents all CPUs)",
    )
    given = parser.parse_args(arguments)
    try:
        for result in benchmarks[given.benchmark](given.rounds, given.seconds, given.threads):
            print(json.dumps(result), flush=True)
    except DarlaError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2
    return 0


def _lines(
    sides: Sequence[Side], figures: Sequence[Figure], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    rates = measure(sides, rounds, seconds)
    threads = {side.name: side.threads for side in sides}
    return [line(figure, rates, threads) for figure in figures]


def _elbo_line(threads: int) -> dict[str, Any]:
    """Whether both train the same thing: losses of the same steps, which must agree."""
    process, pipe = _start(Side("elbo", vision.elbo_agreement, threads))  # type: ignore[arg-type]
    try:
        ours, theirs = _answer(pipe)
    finally:
        process.kill()
    return {
        "figure": "vision.elbo",
        "value": round(ours[-1], 3),
        "unit": f"negative ELBO per image at step {len(ours)}, nats up to a constant",
        "peer": "pythae BetaVAE, same weights, batches and noise",
        "peer_value": round(theirs[-1], 3),
        "ratio": round(ours[-1] / theirs[-1], 6),
        "rounds": [[round(a, 3), round(b, 3)] for a, b in zip(ours, theirs, strict=True)],
        "threads": {"ours": threads, "peer": threads},
        "cpus": os.cpu_count(),
        "versions": installed_versions(PACKAGES),
    }


def _start(side: Side) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """Starts the process of a side, with its threads pinned before any library is imported."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(side.threads))
    try:
        process = context.Process(target=_serve, args=(side.contender, theirs))
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()
    return process, ours


def _serve(contender: Callable[[], Any], pipe: Connection) -> None:
    """Prepares a contender, says so, and measures when it is told for how long."""
    os.dup2(2, 1)  # standard output belongs to the figures
    try:
        prepared = contender()
        if not callable(prepared):
            pipe.send(prepared)
            return
        pipe.send(None)
        pipe.send(prepared(pipe.recv()))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        pipe.send(DarlaError(f"{type(error).__name__}: {error}"))


def _answer(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except EOFError as error:
        raise DarlaError("a contender's process died") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _need(module: str, name: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise DependencyError(f"{name} is not installed: pip install -e '.[peers]'")


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    parse.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return parse


if __name__ == "__main__":
    sys.exit(main())
