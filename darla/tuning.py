"""Sweeps: the same experiment with other seeds or settings, each a trial of Ray Tune.

A trial is a run directory of its own and does what `darla run` does. Since a run directory is
continued where it stopped, it is the checkpoint: Tune starts a trial that was lost again, and a
sweep that is repeated does not repeat what is finished.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from ray import tune

from darla.cluster import RESTARTS, check_capacity, first_line, ray_session, reservation
from darla.config import Config, load_config
from darla.errors import ConfigError, DarlaError
from darla.rundir import RunDirectory
from darla.sharing import share_stage_one
from darla.storage import read_json

if TYPE_CHECKING:
    from ray.tune.experiment import Trial
    from rich.table import Table

SEED = "seed"
_SEED_KEYS = ("frames.seed={}", "vision.seed={}", "agents.seeds=[{}]")
_SEEDS = tuple(word.partition("=")[0] for word in _SEED_KEYS)
_TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output speaks even where `verbose` is 0
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in configurations are those of this folder
}


@dataclass(frozen=True)
class Variant:
    """One trial.

    Attributes:
        varied: what tells it from the other trials: key (or 'seed') and value, as typed.
        config: its configuration.
    """

    varied: Mapping[str, str]
    config: Config


def make_variants(
    source: str, overrides: Sequence[str], grid: Sequence[str], seeds: str | None
) -> list[Variant]:
    """Returns every combination of the values of a grid and the seeds, seeds innermost.

    A run is named after the configuration and what varies: `lab-vision.vae.beta-4-seed-0`.

    Args:
        source: a configuration, as in `load_config`.
        overrides: `key=value` words for all trials.
        grid: words such as `vision.vae.beta=[1,4]`.
        seeds: such as `[0,1,2]`: of the frames, the vision and the policies together.

    Raises:
        ConfigError: a word of the grid is no list, a key or value is wrong, it varies what all
            trials share, or two runs would have the same name.
    """
    base = load_config(source, overrides)
    axes = [_axis(word) for word in grid]
    if seeds is not None:
        axes.append(_axis(f"{SEED}={seeds}"))
    keys = [key for key, _ in axes]
    shared = [key for key in keys if key.partition(".")[0] in ("ray", "runs")]
    if shared:
        raise ConfigError(
            f"'{shared[0]}' cannot vary: all trials of a sweep share one cluster and one folder; "
            f"type the command once for each value, with {shared[0]}=..."
        )
    twice = [key for key in keys if seeds is not None and key in _SEEDS]
    if twice:
        raise ConfigError(f"--seeds sets '{twice[0]}' in every trial; leave it out of the grid")
    variants = []
    for values in itertools.product(*(values for _, values in axes)):
        varied = dict(zip(keys, values, strict=True))
        words = [f"name={'-'.join([base.name, *map(_in_name, varied.items())])}"]
        words += [word for key, value in varied.items() for word in _settings(key, value)]
        variants.append(Variant(varied, load_config(source, [*overrides, *words])))
    names = [variant.config.name for variant in variants]
    if len(set(names)) < len(names) or len(set(keys)) < len(keys):
        raise ConfigError(f"two trials would be the same run; the names are {', '.join(names)}")
    return variants


def _axis(word: str) -> tuple[str, list[str]]:
    """Splits `key=[a,b]` into the key and the values, as typed."""
    key, _, text = word.partition("=")
    try:
        values = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes text of everything
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or not values:
        raise ConfigError(f"'{word}' is no list of values; write key=[a,b]")
    return key, [_typed(value) for value in values]


def _typed(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_typed(item)}' for key, item in value.items())}}}"
    return f"[{','.join(map(_typed, value))}]" if isinstance(value, list) else str(value)


def _in_name(setting: tuple[str, str]) -> str:
    key, value = setting
    signed = re.sub(r"(?<![A-Za-z0-9.])-(?=[0-9.])", "minus", value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{key}-{signed}").strip("-")


def _settings(key: str, value: str) -> list[str]:
    return [word.format(value) for word in _SEED_KEYS] if key == SEED else [f"{key}={value}"]


class RunTrial(tune.Trainable):
    """A trial in Tune's terms: one long step, at whose end the run directory is finished."""

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        configs: Mapping[str, Config],
        work: Callable[[Config], object],
    ) -> None:
        """Takes the configuration of the run that Tune names, and those of the others."""
        self._run, self._work = configs[config["run"]], work
        self._others = [each for name, each in configs.items() if name != config["run"]]

    def step(self) -> dict[str, Any]:
        """Does the work, from where the run directory stands and with what others have made."""
        try:
            share_stage_one(self._run, self._others)
            self._work(self._run)
        except DarlaError as error:  # it would only come again
            return {"done": True, "failed": first_line(error)}
        return {"done": True}


class Announcer(tune.Callback):
    """Says on stderr which trial starts, ends or fails."""

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Says that a trial starts."""
        self._say(trial, "starts")

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Says that a trial is finished, or failed for a reason of ours."""
        self._say(trial, "failed" if "failed" in trial.last_result else "finished")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Says that a trial failed for good."""
        self._say(trial, "failed")

    def _say(self, trial: Trial, what: str) -> None:
        print(f"{trial.config['run']}: {what}", file=sys.stderr, flush=True)


def sweep(
    variants: Sequence[Variant],
    work: Callable[[Config], object],
    *,
    cpus: float,
    gpus: float,
    quiet: bool = False,
) -> dict[str, str]:
    """Runs all trials, as many at a time as the cluster has room for.

    Args:
        variants: the trials; they share `runs` and the settings of Ray.
        work: does the three stages of a configuration; importable where the trials run.
        cpus: CPUs that a trial reserves beside those of its workers.
        gpus: GPUs that it reserves; without any, the vision is trained on CPUs.
        quiet: say nothing on the way.

    Returns:
        The first line of what went wrong, by the name of each run that failed.

    Raises:
        ConfigError: this machine has too few CPUs or GPUs for a single trial.
        DependencyError: as in `ray_session`.
    """
    shared = variants[0].config
    runs = Path(shared.runs).resolve()
    store = runs / ".tune"
    # Paths of a trial are absolute, and it joins the session that is there.
    configs = {
        variant.config.name: variant.config.model_copy(
            update={
                "runs": str(runs),
                "ray": variant.config.ray.model_copy(update={"address": "auto"}),
            }
        )
        for variant in variants
    }
    os.environ.update(_TUNE_SETTINGS)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    bundles = reservation(shared.ray, cpus, gpus)
    with ray_session(shared.ray):
        smaller = "--cpus, --gpus, ray.workers or ray.cpus_per_worker"
        check_capacity(shared.ray, bundles, "a trial", smaller)
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(RunTrial, configs=configs, work=work),
                tune.PlacementGroupFactory(bundles),
            ),
            param_space={"run": tune.grid_search(list(configs))},
            run_config=tune.RunConfig(
                name=shared.name,
                storage_path=str(store),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=RESTARTS),
                callbacks=[] if quiet else [Announcer()],
            ),
        )
        with contextlib.redirect_stdout(sys.stderr):
            results = tuner.fit()
    shutil.rmtree(store / shared.name, ignore_errors=True)
    with contextlib.suppress(OSError):  # where another sweep is at work in the same folder
        store.rmdir()
    failed = {}
    for result in (results[index] for index in range(len(results))):
        name = (result.config or {})["run"]
        if result.error is not None:
            failed[name] = first_line(result.error)
        elif result.metrics and "failed" in result.metrics:
            failed[name] = result.metrics["failed"]
    return failed


def outcomes(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Returns what came of each trial, in their order, from the run directories.

    Returns:
        Per trial `run` (its folder), `varied`; `visions`: of each beta-VAE its `perception`,
        `object_error` (of what the DAE reads in its picture, where the loss is the DAE's), `kl` in
        nats, `active_units`, `probe` and `disentanglement`; and `policies`: per algorithm and
        perception the mean `source` and `target` returns. Empty where there is nothing yet.
    """
    rows = []
    for variant in variants:
        path = Path(variant.config.runs) / variant.config.name
        run = RunDirectory(path, variant.config)
        own = run.belongs()  # a trial that was refused has no results, whatever lies there
        stages = run.status()["stages"] if own else {}
        facts = stages.get("vision", {}).get("facts", {})
        there = own and run.results_json.exists()
        results = read_json(run.results_json) if there else {"rows": []}
        rows.append(
            {
                "run": str(path),
                "varied": dict(variant.varied),
                "visions": _visions(facts),
                "policies": [
                    {key: row[key] for key in ("algorithm", "perception")}
                    | {key: row[key] and row[key]["mean"] for key in ("source", "target")}
                    for row in results["rows"]
                ],
            }
        )
    return rows


def _visions(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns what stage 1 found of each beta-VAE that is finished."""
    from darla.vision.pretrain import VAES

    parts = {name: facts if name == "darla" else facts.get(name, {}) for name in VAES}
    return [
        {
            "perception": name,
            # The error that the loss is about: the DAE's leaves the decoder's picture free.
            "object_error": part["vae"].get("through_dae/objects", part["vae"].get("objects")),
            "kl": part["latents"]["kl"],
            "active_units": part["latents"]["active_units"],
            "probe": part["probe"],
            "disentanglement": part["disentanglement"],
        }
        for name, part in parts.items()
        if "vae" in part
    ]


def outcome_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the rows of `outcomes` as a table for a terminal, a line per vision or policy.

    `probe` is the mean accuracy over all that the linear probes classify. A policy without a
    beta-VAE of its own has a line without a vision.
    """
    from rich.table import Table

    table = Table(
        title="Choose by the vision and source; the target is for information.",
        title_justify="left",
    )
    figures = ("object error", "KL", "active units", "probe", "MIG", "beta-VAE score")
    for name in (*rows[0]["varied"], "vision", *figures, "policy", "source", "target"):
        justify: Literal["left", "right"] = "left" if name in ("vision", "policy") else "right"
        table.add_column(name, justify=justify, overflow="fold")
    no_vision, no_policy = ["–"] * (1 + len(figures)), ["–"] * 3
    for row in rows:
        visions = {vision["perception"]: _vision_cells(vision) for vision in row["visions"]}
        lines = []
        for policy in row["policies"]:
            name = f"{policy['algorithm']} {policy['perception']}"
            returns = [_figure(policy[key]) for key in ("source", "target")]
            lines.append([*visions.pop(policy["perception"], no_vision), name, *returns])
        lines += [[*cells, *no_policy] for cells in visions.values()]
        head = list(row["varied"].values())
        for line in lines or [[*no_vision, *no_policy]]:
            table.add_row(*head, *line)
            head = [""] * len(head)
    return table


def _vision_cells(vision: Mapping[str, Any]) -> list[str]:
    probe, scores = vision["probe"], vision["disentanglement"]
    read = [value for key, value in probe.items() if f"{key}/chance" in probe]
    return [
        vision["perception"],
        _figure(vision["object_error"]),
        _figure(vision["kl"]),
        str(vision["active_units"]),
        _figure(sum(read) / len(read) if read else None),
        *(_figure(scores.get(key)) for key in ("mig", "beta_vae")),
    ]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
