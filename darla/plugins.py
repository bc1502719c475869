"""A user's own Python files, which register worlds (`envs.registry`) and visions when imported."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
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
        imported(what, functools.partial(importlib.import_module, plugin))
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
    imported(what, functools.partial(spec.loader.exec_module, module))


def imported(what: str, load: Callable[[], object]) -> None:
    """Imports something by `load`.

    Raises:
        ConfigError: That failed; the message says that it is the fault of `what`.
    """
    try:
        load()
    except DarlaError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} fails when it is imported: {type(error).__name__}: {error}"
        ) from error
