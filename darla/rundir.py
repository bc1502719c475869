"""Run directories: one folder per experiment, which knows what it is and what is finished.

`run.json` holds, per stage, when it started and finished, the seconds that it took over all its
processes, facts, and the SHA-256 of the files it was made from. A stage that is finished is not
repeated, one that is not is continued, and a directory of another configuration is refused.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from darla import __version__
from darla.config import Config, config_identity, differences, load_config, to_yaml
from darla.errors import ConfigError, CorruptFileError, MissingFileError, RunDirectoryError
from darla.storage import make_folder, read_json, sha256_file, write_json, write_text

PACKAGES = ("torch", "numpy", "mujoco", "dm-control", "gymnasium", "ray", "safetensors")
"""Packages whose versions a run records, since they can change its numbers."""


class RunDirectory:
    """The folder of one experiment.

    Attributes:
        path: The folder, `<config.runs>/<config.name>`.
        config: The configuration as it was given to this process.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """Use `open` or `load`, which check what is on the disk."""
        self.path = path
        self.config = config
        self._began: dict[str, float] = {}
        self._locks: dict[str, int] = {}

    @classmethod
    def open(cls, config: Config, *, create: bool = True) -> RunDirectory:
        """Opens the run directory of a configuration.

        Args:
            config: The experiment; its `runs` and `name` say where the folder is.
            create: Whether to make a folder that is not there.

        Raises:
            MissingFileError: there is no such run directory, and `create` is false.
            RunDirectoryError: it belongs to another configuration, is another kind of folder, or
                cannot be written.
        """
        run = cls(Path(config.runs) / config.name, config)
        if not run._config_file.is_file():
            if not create:
                raise MissingFileError(
                    f"no run directory '{run.path}'; `darla run` with the same configuration makes "
                    "it"
                )
            run._create()
        run._refuse_another(_stored(run.path))
        return run

    @classmethod
    def load(cls, path: str | Path) -> RunDirectory:
        """Opens an existing run directory by its path, wherever it was moved to.

        Raises:
            MissingFileError: there is no run directory.
            RunDirectoryError: its configuration cannot be read by this version.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise MissingFileError(f"'{path}' is no run directory: it has no config.yaml")
        return cls(path, _stored(path))

    def belongs(self) -> bool:
        """Whether there is a run directory, and it is of this configuration."""
        if not self._config_file.is_file():
            return False
        try:
            return not differences(_stored(self.path), self.config)
        except RunDirectoryError:
            return False

    @property
    def frames(self) -> Path:
        """Folder of the frames of D_U."""
        return self.path / "frames"

    @property
    def vision(self) -> Path:
        """Folder of the trained vision."""
        return self.path / "vision"

    def agent(self, cell_id: str) -> Path:
        """Returns the folder of one trained cell, such as `dqn-darla-s0`."""
        return self.path / "agents" / cell_id

    @property
    def scores(self) -> Path:
        """Table of scored episodes."""
        return self.path / "scores.jsonl"

    @property
    def scored(self) -> bool:
        """Whether an episode of the table is there."""
        return self.scores.exists() and self.scores.stat().st_size > 0

    @property
    def results_json(self) -> Path:
        """Results for a script."""
        return self.path / "results.json"

    @property
    def results_csv(self) -> Path:
        """Results for a spreadsheet."""
        return self.path / "results.csv"

    @property
    def report(self) -> Path:
        """Results for a reader."""
        return self.path / "report.html"

    def status(self) -> dict[str, Any]:
        """Returns what `run.json` holds: `name`, `versions`, `git`, `host`, `seeds`, `stages` ...

        `stages` maps each stage that ever started to `started`, `finished` (a time or null),
        `seconds`, `facts`, `parents` and `code`, the commits that worked on it.

        Raises:
            CorruptFileError: the file is damaged.
        """
        if self._config_file.is_file() and not self._run_file.exists():
            raise CorruptFileError(
                f"'{self.path}' has lost its run.json, which says what is finished; restore it, or "
                f"type name={_next_name(self.path)} to start a new run"
            )
        status = read_json(self._run_file)
        if not isinstance(status, dict) or not isinstance(status.get("stages"), dict):
            raise CorruptFileError(f"'{self._run_file}' is damaged: it has no stages")
        return status

    def start(self, stage: str) -> None:
        """Marks a stage as begun, or as continued, by this process, which alone may work on it.

        A stage that this process has begun already stays as it is.

        Raises:
            RunDirectoryError: another process is at work on this stage.
        """
        self._lock(stage)
        self._began.setdefault(stage, time.monotonic())
        with self._stage(stage) as entry:
            entry["finished"] = None
            code = entry.setdefault("code", [])
            if (git := _git_state()) is not None and git not in code:
                code.append(git)

    def note(self, stage: str, **facts: Any) -> None:
        """Saves facts and the seconds so far; call it at checkpoints, so a kill loses little."""
        with self._stage(stage) as entry:
            self._tick(stage, entry)
            entry["facts"].update(facts)

    def finish(self, stage: str, *, parents: Iterable[Path] = (), **facts: Any) -> None:
        """Marks a stage as finished.

        Args:
            stage: The stage that was started.
            parents: Files that the result was made from; their SHA-256 is recorded.
            **facts: JSON values to keep, such as counts and rates.
        """
        digests = {os.path.relpath(path, self.path): sha256_file(path) for path in parents}
        with self._stage(stage) as entry:
            self._tick(stage, entry)
            entry["finished"] = _now()
            entry["facts"].update(facts)
            entry["parents"].update(digests)
        self._began.pop(stage, None)
        if stage in self._locks:
            os.close(self._locks.pop(stage))

    def finished(self, stage: str) -> bool:
        """Whether a stage was finished by this or an earlier process."""
        return bool(self.status()["stages"].get(stage, {}).get("finished"))

    def keep(self, name: str, value: Any, what: str) -> None:
        """Records a JSON value the first time, and refuses another one from then on.

        Args:
            name: Its key in `run.json`.
            value: The value.
            what: What it is, and what to look at where it has changed.

        Raises:
            RunDirectoryError: It was another value.
        """
        with self._status() as status:
            if status.setdefault(name, value) != value:
                raise RunDirectoryError(
                    f"run directory '{self.path}' has another {what}; restore it, or type "
                    f"name={_next_name(self.path)} to start a new run"
                )

    @contextmanager
    def alone(self, work: str) -> Iterator[None]:
        """Lets no other process do work of this name meanwhile; not recorded as a stage.

        Raises:
            RunDirectoryError: another process is at work on it.
        """
        self._lock(work)
        try:
            yield
        finally:
            os.close(self._locks.pop(work))

    def pause(self) -> None:
        """Saves the seconds of the stages that this process began and could not finish."""
        for stage in self._began:
            self.note(stage)

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _run_file(self) -> Path:
        return self.path / "run.json"

    def _create(self) -> None:
        """Makes the folder, unless another process has just done so."""
        known = re.compile(r"run\.json|config\.yaml|\.(run\.json|config\.yaml)\..*tmp|\.locks")
        names = [file.name for file in self.path.iterdir()] if self.path.is_dir() else []
        strangers = sorted(name for name in names if not known.fullmatch(name))
        if strangers and not self._config_file.is_file():
            raise RunDirectoryError(
                f"'{self.path}' exists and is no run directory (it holds '{strangers[0]}'); "
                f"type another name=... or runs=..."
            )
        make_folder(self.path)
        with self._alone_with_status():
            if not self._config_file.is_file():
                self._write_first()

    def _write_first(self) -> None:
        """Writes run.json first: a folder that has a config.yaml is complete."""
        config = self.config
        write_json(
            self._run_file,
            {
                "name": config.name,
                "identity": config_identity(config),
                "created": _now(),
                "versions": _versions(),
                "git": _git_state(),
                "host": {
                    "cpus": os.cpu_count(),
                    "machine": platform.machine(),
                    "system": platform.platform(),
                },
                "seeds": {
                    "frames": config.frames.seed,
                    "vision": config.vision.seed,
                    "agents": config.agents.seeds,
                    "transfer": config.transfer.seed,
                },
                "stages": {},
            },
        )
        write_text(self._config_file, to_yaml(config))

    def _refuse_another(self, stored: Config) -> None:
        changed = differences(stored, self.config)
        if changed:
            keys = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
            raise RunDirectoryError(
                f"run directory '{self.path}' belongs to another configuration ({keys}); "
                f"type name={_next_name(self.path)} to start a new one, or give "
                f"'{self._config_file}' to continue this one"
            )

    def _lock(self, stage: str) -> None:
        """Takes the lock of a stage or other work; the system releases it with the process."""
        if stage in self._locks:
            return
        lock = self._open_lock(stage.replace("/", "-"))
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise self._no_locks(error) from error
            raise RunDirectoryError(
                f"another process is at work on '{stage}' in '{self.path}'; wait for it or end it"
            ) from error
        self._locks[stage] = lock

    def _no_locks(self, error: OSError) -> RunDirectoryError:
        reason = (error.strerror or str(error)).lower()
        return RunDirectoryError(
            f"'{self.path}' lies on storage that gives no locks ({reason}), so that two processes "
            "could spoil each other's work; give runs=FOLDER on storage that does"
        )

    def _open_lock(self, name: str) -> int:
        """Opens the file of a lock, or says that the run directory cannot be written."""
        file = self.path / ".locks" / name
        try:
            file.parent.mkdir(exist_ok=True)
            return os.open(file, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise RunDirectoryError(f"cannot write '{file}': {error.strerror}") from error

    @contextmanager
    def _stage(self, stage: str) -> Iterator[dict[str, Any]]:
        """Lends the entry of one stage."""
        with self._status() as status:
            fresh: dict[str, Any] = {
                "started": _now(),
                "finished": None,
                "seconds": 0.0,
                "facts": {},
                "parents": {},
            }
            yield status["stages"].setdefault(stage, fresh)

    @contextmanager
    def _status(self) -> Iterator[dict[str, Any]]:
        """Reads run.json, lends it and writes it back, alone among all processes."""
        with self._alone_with_status():
            status = self.status()
            yield status
            write_json(self._run_file, status)

    @contextmanager
    def _alone_with_status(self) -> Iterator[None]:
        """Waits until no other process writes run.json, and keeps them off."""
        lock = self._open_lock("run.json")
        try:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX)
            except OSError as error:
                raise self._no_locks(error) from error
            yield
        finally:
            os.close(lock)

    def _tick(self, stage: str, entry: dict[str, Any]) -> None:
        now = time.monotonic()
        entry["seconds"] = round(entry["seconds"] + now - self._began.get(stage, now), 3)
        self._began[stage] = now


def _stored(path: Path) -> Config:
    try:
        return load_config(path / "config.yaml")
    except ConfigError as error:
        first = str(error).splitlines()[0]
        raise RunDirectoryError(
            f"the configuration in '{path}' cannot be read; it may be of another version of the "
            f"project: {first}"
        ) from error


def _next_name(path: Path) -> str:
    """Returns the first of `<name>-2`, `<name>-3` ... that is free beside `path`."""
    stem = re.sub(r"-\d+$", "", path.name)
    number = 2
    while (path.parent / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    own = {"darla": __version__, "python": platform.python_version()}
    return own | installed_versions(PACKAGES)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    versions = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@functools.cache
def _git_state() -> dict[str, Any] | None:
    """Returns the commit of the project's checkout and whether it was changed; None outside one.

    It is that of the first call: what a process runs does not change with the checkout.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
