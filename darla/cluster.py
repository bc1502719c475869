"""Ray: a local cluster for the duration of a command, or an existing one that is joined."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from darla.config import RayConfig
from darla.errors import DependencyError

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_ATTEMPTS = 3


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to Ray, and ends on leaving what it started. Inside another session it does nothing.

    A local cluster listens on the loopback interface only, has no dashboard, and offers as many
    CPUs as the machine has, or as the workers reserve where that is more.

    Args:
        config: address of a running cluster, or None, and what the workers reserve.

    Raises:
        DependencyError: Ray is not installed, does not start, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            f"Ray is not installed ({error}); type: pip install 'ray[default]'"
        ) from error
    if ray.is_initialized():
        yield
        return
    _connect(config)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(config: RayConfig) -> None:
    """Joins the cluster at `config.address`, or starts one on this machine."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.address is not None:
        where = f"answers at ray.address={config.address}"
        options: dict[str, Any] = {"address": config.address}
    else:
        where = "starts on this machine"
        options = {
            "address": "local",
            "num_cpus": max(
                os.cpu_count() or 1, math.ceil(config.workers * config.cpus_per_worker)
            ),
            "num_gpus": 0,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
        }
    for attempt in range(1, _ATTEMPTS + 1):
        # Ray gives a new local node 30 s, which a busy machine can miss; it raises no type of
        # its own then.
        try:
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _ATTEMPTS or config.address is not None:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise DependencyError(f"no Ray {where}: {reason}") from error
