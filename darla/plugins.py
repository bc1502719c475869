"""A user's own Python files, which register worlds (`envs.registry`) and visions when imported."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darla.errors import ConfigError, DarlaError


@functools.cache
def import_plugin(plugin: str) -> None:
    """Imports a plugin, once in a process.

    Args:
        plugin: A Python file (a path that ends in `.py`) or the name of a module.

    Raises:
        ConfigError: There is no such plugin, or it fails when it is imported.
    """
    what = f"environment.plugin '{plugin}'"
    if not plugin.endswith(".py"):
        with blaming(what):
            importlib.import_module(plugin)
        return
    path = Path(plugin)
    if not path.is_file():
        raise ConfigError(f"environment.plugin: no file '{plugin}' in '{Path.cwd()}'")
    # Under a name of its own, so that workers may unpickle by reference what it defines.
    name = f"darla_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with blaming(what):
        spec.loader.exec_module(module)


@contextmanager
def blaming(what: str, when: str = "when it is imported") -> Iterator[None]:
    """Says of what goes wrong in a user's own code that it is that code's fault.

    Raises:
        ConfigError: Anything but an error of ours went wrong.
    """
    try:
        yield
    except DarlaError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} fails {when}: {type(error).__name__}: {error}") from error
