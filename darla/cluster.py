"""Ray: a local cluster for the duration of a command, or an existing one that is joined."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

from darla.config import RayConfig
from darla.errors import DependencyError

_OBJECT_STORE_BYTES = 512 * 1024 * 1024


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to Ray, and ends on leaving what it started. Inside another session it does nothing.

    A local cluster listens on the loopback interface only, has no dashboard, and offers as many CPUs as the machine
    has, or as the workers reserve where that is more.

    Args:
        config: address of a running cluster, or None, and what the workers reserve.

    Raises:
        DependencyError: Ray is not installed, does not start, or nothing answers at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise DependencyError(
            f"Ray is not installed ({error}): pip install 'ray[default]'"
        ) from error
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if config.address is not None:
            ray.init(address=config.address, **common)
        else:
            reserved = math.ceil(config.workers * config.cpus_per_worker)
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, reserved),
                num_gpus=0,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                **common,
            )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f"at ray.address={config.address}" if config.address else "on this machine"
        raise DependencyError(f"no Ray {where}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()
