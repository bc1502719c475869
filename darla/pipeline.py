"""The pipeline: what is left of a run's three stages, and what can be refused before they start.

Beside the command line this module alone sees all packages, and imports each inside the function
that needs it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darla.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from agents.cells import Cell
    from darla.config import Config
    from darla.rundir import RunDirectory
    from envs.domains import Suite

_PR_SET_PDEATHSIG = 1


def run_stage_one(config: Config, quiet: bool = True) -> dict[str, Any]:
    """Does what is left of stage 1; returns the facts of the frames and of the vision."""
    check_machine(config)
    check_frames(config)
    with open_run(config) as run:
        check_room(run)
        pretrain(run, quiet)
        stages = run.status()["stages"]
    return {stage: stages[stage]["facts"] for stage in ("frames", "vision")}


def run_stages(config: Config, quiet: bool = True) -> dict[str, Any]:
    """Does what is left of the three stages and the report; returns the results.

    Where no perception sees through a vision, there is no stage 1.
    """
    from darla.perception import BLIND, needs_vision

    cells = _checked_cells(config)
    with open_run(config) as run:
        check_room(run)
        if needs_vision(config):
            with _trained_beside(run, cells, quiet):
                pretrain(run, quiet)
                train(run, [cell for cell in cells if cell.perception not in BLIND], quiet)
        train(run, cells, quiet)
        results = transfer(run, cells, quiet)
        _report(run)
    return results


def run_benchmark(
    config: Config,
    protocols: Sequence[str],
    quiet: bool = True,
    *,
    allow_unfinished: bool = False,
) -> dict[str, Any]:
    """Does what is left of a run of the benchmark; returns the results.

    Args:
        config: The run.
        protocols: Suites to score on.
        quiet: Show no progress.
        allow_unfinished: Score what there is, instead of training what is left.
    """
    from agents.parallel import slots_of
    from darla.cluster import ray_session
    from darla.perception import needs_vision
    from envs.registry import protocol_of

    suites = [protocol_of(config, name) for name in protocols]
    cells = _checked_cells(config)
    with ray_session(config.ray):
        if not allow_unfinished:
            slots_of(config)  # refused here, and not after hours of stage 1
        with open_run(config, create=not allow_unfinished) as run:
            if not allow_unfinished:
                check_room(run)
                if needs_vision(config):
                    pretrain(run, quiet)
                train_side_by_side(run, cells, quiet)
            results = transfer(run, cells, quiet, suites=suites, allow_unfinished=allow_unfinished)
            _report(run)
    return results


def load(config: str, overrides: Sequence[str] | None) -> Config:
    """Reads a configuration and refuses names that only the packages above its tree know.

    The `config.yaml` of a run directory is about that directory, wherever it was moved to.
    """
    from darla.config import load_config
    from envs.registry import suite_of

    words = list(overrides or [])
    tree = load_config(config, words)
    folder = Path(config).resolve().parent
    own = Path(config).name == "config.yaml" and (folder / "run.json").exists()
    told = {word.partition("=")[0] for word in words}
    if own and "runs" not in told and Path(tree.runs).resolve() != folder.parent:
        tree = load_config(config, [*words, f"runs={folder.parent}"])
    if own and "name" not in told and tree.name != folder.name:
        raise ConfigError(
            f"'{folder}' holds the run '{tree.name}': give the folder that name again to go on "
            "with it, or name=... for a new run of the same configuration"
        )
    suite_of(tree)
    return tree


@contextmanager
def open_run(config: Config, *, create: bool = True) -> Iterator[RunDirectory]:
    """Opens the run directory of a configuration and saves, whatever happens, the time used."""
    from darla.rundir import RunDirectory

    run = RunDirectory.open(config, create=create)
    try:
        _keep_domains(run)
        yield run
    finally:
        run.pause()


def _keep_domains(run: RunDirectory) -> None:
    """Refuses to go on where a suite, for instance of a plugin, has other domains than before."""
    from envs.registry import suite_of

    suite = suite_of(run.config)
    domains = {name: [d.id for d in getattr(suite, name)] for name in ("d_u", "d_s", "d_t")}
    what = f"suite '{suite.name}': its domains were others when the run began"
    plugin = run.config.environment.plugin
    run.keep("domains", domains, f"{what} (look at {plugin})" if plugin else what)


# -- the stages one by one -------------------------------------------------------------------------


def pretrain(run: RunDirectory, quiet: bool) -> None:
    """Stage 1: the frames of D_U, and the visions that the run's perceptions ask for."""
    from agents.walkers import walker_of
    from darla.vision.pretrain import train_vision
    from envs.collect import collect_frames

    if not _has_frames(run):
        walker, files = walker_of(run.config)
        work = functools.partial(collect_frames, run.config, run, make_walker=walker, quiet=quiet)
        run.start("frames")  # again, where they were lost
        _stage(run, "frames", quiet, work, parents=files)
    work = functools.partial(train_vision, run.config, run, quiet=quiet)
    _stage(run, "vision", quiet, work, parents=[run.frames / "index.json"])


def _has_frames(run: RunDirectory) -> bool:
    return run.finished("frames") and (run.frames / "index.json").exists()


@contextmanager
def _trained_beside(run: RunDirectory, cells: Sequence[Cell], quiet: bool) -> Iterator[None]:
    """Trains the cells that need no vision in a second process, while the vision is trained.

    On one machine with a core to spare only. What the second process did not finish is left to
    the caller; it ends when this process ends, however that happens.
    """
    from darla.perception import BLIND

    waiting = [c for c in cells if c.perception in BLIND and not run.finished(f"train/{c.id}")]
    if run.finished("vision") or not waiting or not spare_core(run.config):
        yield
        return
    names = dict.fromkeys(cell.perception for cell in waiting)
    say(quiet, f"beside it, in a process of its own: training on {', '.join(names)}")
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name] if spec else [sys.argv[0]]
    words = ["train", str(run.path / "config.yaml"), f"runs={run.config.runs}", "--quiet"]
    words += [word for name in names for word in ("--perception", name)]
    child = subprocess.Popen(
        [sys.executable, *program, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=_end_with_parent,
    )
    try:
        yield
        child.wait()
    finally:
        child.terminate()
        child.wait()


def spare_core(config: Config) -> bool:
    """Whether this machine does the work, and has a core that the vision leaves idle."""
    return config.ray.address is None and (os.cpu_count() or 1) > 1


def _end_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def train(run: RunDirectory, cells: Sequence[Cell], quiet: bool) -> None:
    """Stage 2: trains cells one after another."""
    from agents.training import train_cell
    from darla.perception import BLIND

    for cell in cells:
        work = functools.partial(train_cell, run.config, run, cell, quiet=quiet)
        parents = () if cell.perception in BLIND else run.vision.glob("*.safetensors")
        _stage(run, f"train/{cell.id}", quiet, work, parents=parents)


def train_side_by_side(run: RunDirectory, cells: Sequence[Cell], quiet: bool) -> None:
    """Trains what is left of the cells on Ray; raises for all that failed when none is left."""
    from agents.parallel import train_parallel
    from benchmarks.tiers import what_is_left

    say(quiet, f"{run.config.name}: {what_is_left(run, cells)}")
    left = [cell for cell in cells if not run.finished(f"train/{cell.id}")]
    failed = train_parallel(run.config, run, left, train_one, quiet=quiet)
    refuse_failed(failed, len(left), "cells")


def train_one(config: Config, cell: Cell) -> None:
    """Trains one cell of a run that exists; a task of `train_side_by_side`."""
    with open_run(config, create=False) as run:
        train(run, [cell], quiet=True)


def transfer(
    run: RunDirectory,
    cells: Sequence[Cell],
    quiet: bool,
    *,
    suites: Sequence[Suite] = (),
    allow_unfinished: bool = False,
) -> dict[str, Any]:
    """Stage 3: scores on suites, by default the run's own, and checks them for contamination."""
    from benchmarks.contamination import check_contamination, verdict
    from benchmarks.provenance import keep_frame_digests
    from benchmarks.results import write_results
    from benchmarks.transfer import score_transfer
    from envs.registry import suite_of

    suites = suites or [suite_of(run.config)]
    with run.alone("transfer"):  # one table of scores for all protocols
        score_transfer(
            run.config, run, cells, suites=suites, allow_unfinished=allow_unfinished, quiet=quiet
        )
        found = check_contamination(run.config, run, cells, suites)
        for suite in suites:
            say(quiet, verdict(found, suite.name))
        keep_frame_digests(run, suites)
        return write_results(run)


def _report(run: RunDirectory) -> None:
    from benchmarks.report import write_report

    run.start("report")
    write_report([run.path], run.report)
    run.finish("report")


def _stage(
    run: RunDirectory,
    stage: str,
    quiet: bool,
    work: Callable[[], dict[str, Any] | None],
    *,
    parents: Iterable[Path] = (),
) -> None:
    """Does the work of a stage that is not finished, and records what it returns as facts."""
    if run.finished(stage):
        say(quiet, f"{stage}: finished before")
        return
    run.start(stage)
    facts = work() or {}
    run.finish(stage, parents=parents, **facts)


def refuse_failed(failed: dict[str, str], count: int, what: str) -> None:
    """Refuses to end well where trials of a sweep, or cells of a run, failed."""
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RunDirectoryError(
            f"{len(failed)} of {count} {what} failed, repeat the command to continue them: "
            f"{reasons}"
        )


def say(quiet: bool, text: str) -> None:
    """Prints a line of progress, unless it is not wanted."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


# -- what can be seen before the long work starts --------------------------------------------------


def _checked_cells(config: Config) -> list[Cell]:
    """Returns the cells of a run that can start as far as can be seen."""
    from agents.cells import cells_of

    cells = cells_of(config)
    check_cells(cells, config)
    check_machine(config)
    check_actions(cells, config)
    check_frames(config)
    return cells


def check_cells(cells: Sequence[Cell], config: Config) -> None:
    """Refuses cells that cannot be trained as they are configured."""
    from agents.algorithms import TRAINERS
    from darla.perception import check_perception
    from envs.registry import suite_of

    for algorithm in dict.fromkeys(cell.algorithm for cell in cells):
        TRAINERS[algorithm].check(config)

    state_size = suite_of(config).world.state_size
    for cell in cells:
        check_perception(cell.perception, config, state_size)


def check_actions(cells: Sequence[Cell], config: Config) -> None:
    """Refuses algorithms that cannot act in the world that is configured."""
    from agents.policy import Actions
    from envs import make_vector
    from envs.registry import suite_of

    choosing_once = sorted({cell.algorithm for cell in cells} - {"a3c"})
    if choosing_once:
        sources = suite_of(config).d_s[:1]
        vector = make_vector(config.environment, sources, 1, seed=0, render=False)
        actions = Actions.of(vector.single_action_space)
        vector.close()
        for algorithm in choosing_once:
            actions.count(algorithm)


def check_machine(config: Config, *, frames: bool = True) -> None:
    """Refuses work that this machine cannot do."""
    if frames:
        from envs.registry import get_simulator

        get_simulator(config.environment.id, config.environment.plugin).check()
    if config.vision.device not in ("auto", "cpu"):
        from darla.devices import choose_device

        choose_device(config.vision.device)
    if config.vision.processes > 1:
        from darla.vision.together import check_batches

        check_batches(config)


def check_frames(config: Config) -> None:
    """Refuses frames that nobody can collect, before there is a run directory."""
    from agents.walkers import walker_of
    from darla.rundir import RunDirectory

    run = RunDirectory(Path(config.runs) / config.name, config)
    if not (run.frames / "index.json").exists():
        walker_of(config)


def check_room(run: RunDirectory) -> None:
    """Refuses to start a run whose frames and replays the disk cannot hold."""
    from darla.perception import ON_FRAMES

    if _has_frames(run):
        return
    config = run.config
    frame = config.environment.size**2 * 3
    needed = config.frames.count * frame
    if "dqn" in config.agents.algorithms and set(config.agents.perceptions) & set(ON_FRAMES):
        needed += 2 * config.agents.dqn.replay * frame
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise RunDirectoryError(
            f"'{run.path}' needs up to {needed / 2**30:.1f} GiB and its disk has "
            f"{free / 2**30:.1f} GiB free; give runs=FOLDER elsewhere"
        )
