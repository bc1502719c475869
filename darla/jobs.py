"""Runs as Ray jobs: the packages and the resolved configuration travel to a cluster."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darla.cluster import first_line, refused
from darla.config import Config, to_yaml
from darla.errors import ConfigError, DarlaError, DependencyError
from darla.storage import write_text

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PACKAGES = ("darla", "envs", "agents", "benchmarks")
CONFIG_FILE = "submitted.yaml"
ENTRYPOINT = f"python -m darla.cli run {CONFIG_FILE} ray.address=auto"


def submit(config: Config, address: str, *, pip: bool = False) -> str:
    """Submits `darla run` with a configuration to a cluster, and returns the id of the job.

    The packages, the whole configuration and a plugin below the working folder are uploaded;
    nothing else is. The same run submitted again continues in its run directory.

    Args:
        config: the experiment; `runs`, and a run in `frames.policy`, are absolute paths on storage
            that all nodes share.
        address: of the cluster's dashboard, such as `http://head:8265`.
        pip: whether the nodes install this machine's versions of the dependencies first; they are
            expected to have them otherwise.

    Raises:
        ConfigError: a path would lead nowhere in the temporary folder of the job, or the address
            is no URL.
        DependencyError: nothing answers at the address, the cluster refuses the token, or, with
            `pip`, this machine does not know its versions since the project is not installed.
    """
    _check_paths(config)
    with tempfile.TemporaryDirectory() as folder:
        _stage(config, Path(folder))
        environment: dict[str, Any] = {"working_dir": folder}
        if pip:
            environment["pip"] = pinned_requirements()
        with _answering(address) as client:
            return client.submit_job(
                entrypoint=ENTRYPOINT,
                runtime_env=environment,
                metadata={"run": str(Path(config.runs) / config.name)},
            )


def follow(job: str, address: str, show: Callable[[str], object]) -> int:
    """Shows the log of a job until it ends, and returns its exit status.

    Args:
        job: id of the job.
        address: as in `submit`.
        show: takes each piece of the log.

    Raises:
        DependencyError: nothing answers at the address, or the log broke off; the job may well go
            on.
        DarlaError: the job was stopped, or the cluster could not start it.
    """

    async def tail(client: JobSubmissionClient) -> None:
        async for piece in client.tail_job_logs(job):
            show(piece)

    broke_off = f"the log of job {job} broke off, and the job may well go on"
    again = f"type: {follow_command(job, address)}"
    with _answering(address) as client:
        try:
            asyncio.run(tail(client))
            info = client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            raise DependencyError(f"{broke_off} ({first_line(error)}); {again}") from error
    if not info.status.is_terminal():
        raise DependencyError(f"{broke_off}; {again}")
    if info.driver_exit_code is None:
        raise DarlaError(f"job {job} ended without a result: {info.status}, {info.message}")
    return info.driver_exit_code


def follow_command(job: str, address: str) -> str:
    """Returns the command that shows the log of a job."""
    return f"ray job logs --follow --address {address} {job}"


def pinned_requirements() -> list[str]:
    """Returns what the project depends on, pinned to the versions that this machine has."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("darla") or []
    except metadata.PackageNotFoundError as error:
        raise DependencyError(
            "--pip takes the versions of this machine, where the project is not installed; "
            "type: pip install -c constraints.txt -e ."
        ) from error
    pins = []
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None:
            extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
            version = metadata.version(requirement.name).partition("+")[0]
            pins.append(f"{requirement.name}{extras}=={version}")
    return pins


def _check_paths(config: Config) -> None:
    """Refuses paths that lead nowhere in the temporary folder of a job."""
    runs, policy, plugin = config.runs, config.frames.policy, config.environment.plugin
    lost = []
    if not Path(runs).is_absolute():
        lost.append(("runs", runs, "runs=/FOLDER"))
    if "/" in policy and not Path(policy).is_absolute():
        lost.append(("frames.policy", policy, "frames.policy=/FOLDER/RUN/CELL"))
    if plugin is not None and ".." in Path(plugin).parts:
        below = "a file below this folder, which is uploaded"
        instead = f"{below}, or environment.plugin=/FOLDER/FILE.py"
        lost.append(("environment.plugin", plugin, instead))
    if lost:
        refusals = (
            f"{key} is '{value}', which a job would have in a temporary folder of its own: give "
            f"{instead} on storage that all nodes share"
            for key, value, instead in lost
        )
        raise ConfigError("; ".join(refusals))


def _stage(config: Config, folder: Path) -> None:
    """Puts what a job needs into a folder: packages and plugin as they lie, the configuration."""
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        shutil.copytree(
            root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    plugin = config.environment.plugin
    if plugin is not None and plugin.endswith(".py") and not Path(plugin).is_absolute():
        (folder / plugin).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plugin, folder / plugin)
    write_text(folder / CONFIG_FILE, to_yaml(config))


@contextmanager
def _answering(address: str) -> Iterator[JobSubmissionClient]:
    """Lends a client of a cluster's jobs; what goes wrong with it is said in one line."""
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"'{address}' is no URL of a dashboard; give --address http://HEAD:8265")
    import ray
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        yield JobSubmissionClient(address)
    except ray.exceptions.AuthenticationError as error:
        raise DependencyError(refused(address)) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise DependencyError(f"no Ray takes jobs at {address}: {first_line(error)}") from error
