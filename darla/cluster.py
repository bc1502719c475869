"""Ray: a local cluster for the duration of a command, or an existing one that is joined."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from darla.config import RayConfig
from darla.errors import ConfigError, DarlaError, DependencyError

RESTARTS = 3
"""How often a trial or training whose process or machine is lost is started again."""

_OBJECT_STORE_BYTES = 512 * 1024 * 1024
_MESSAGE_BYTES = 1024 * 1024
"""Up to here, what is sent is in the message itself. By default Ray puts what exceeds 100 kB, such
as A3C's weights and gradients, into its object store, which takes longer."""
_ATTEMPTS = 3
_PROBE_SECONDS = 5.0


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Connects to Ray, and ends on leaving what it started. Inside another session it does nothing.

    A local cluster listens on the loopback interface only, has no dashboard, and offers as many
    CPUs as the machine has, or as the workers reserve where that is more, and all its GPUs.

    To join a cluster, this machine must be one of its nodes. A cluster with token authentication
    is joined with RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN in the environment.

    Args:
        config: address of a running cluster, or None, and what the workers reserve.

    Raises:
        DependencyError: Ray is not installed, does not start, nothing answers at the address, or
            the cluster refuses the token.
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    with _loopback_kept():
        if config.address is None:
            _start(config)
        else:
            _join(config.address)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _loopback_kept() -> Iterator[None]:
    """Lets Ray take 127.0.0.1 as it is, while it connects.

    Where Ray may form clusters it replaces that by the machine's own address, and what it starts
    then listens to the whole network.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _start(config: RayConfig) -> None:
    """Starts a cluster on this machine, which ends with this process."""
    import ray

    cpus = max(os.cpu_count() or 1, math.ceil(config.workers * config.cpus_per_worker))
    for attempt in range(1, _ATTEMPTS + 1):
        # Ray gives a new local node 30 s, which a busy machine can miss; it raises no type of
        # its own then.
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _system_config={"max_direct_call_object_size": _MESSAGE_BYTES},
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _ATTEMPTS:
                raise DependencyError(
                    f"no Ray starts on this machine: {first_line(error)}"
                ) from error


def _join(address: str) -> None:
    """Joins a running cluster. It is asked for a sign of life first: Ray waits for minutes."""
    import ray

    try:
        _probe(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise DependencyError(refused(f"ray.address={address}")) from error
    except Exception as error:
        ray.shutdown()
        raise DependencyError(
            f"no Ray answers at ray.address={address}: {first_line(error)}"
        ) from error


def _probe(address: str) -> None:
    """Connects to the head of a cluster and shows it the token."""
    from ray._private.authentication import authentication_token_setup as tokens
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    # As Ray does: a token in the home folder is meant for the cluster that is found here, and no
    # other. A process that asks for tokens is out of reach for a cluster that has none.
    if address == "auto" and "RAY_ADDRESS" not in os.environ:
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    tokens.ensure_token_if_auth_enabled(create_token_if_missing=False)
    head = canonicalize_bootstrap_address_or_die(address)
    host, _, port = head.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS):
        pass
    GcsClient(address=head)


def reservation(config: RayConfig, cpus: float, gpus: float = 0.0) -> list[dict[str, float]]:
    """Returns what work with workers of its own reserves: for its process, and for each worker.

    Args:
        config: number of workers, and of CPUs for each.
        cpus: CPUs of the process.
        gpus: GPUs of the process.
    """
    own = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
    reserved = config.cpus_per_worker
    return [own] + [{"CPU": reserved}] * (config.workers if reserved else 0)


def refused(where: str) -> str:
    """Returns what to say when a cluster refuses the token, or there is none."""
    return (
        f"the Ray cluster at {where} wants a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to "
        "that of the cluster"
    )


def check_capacity(
    config: RayConfig, bundles: Sequence[Mapping[str, float]], who: str, smaller: str
) -> None:
    """Refuses work that this machine's own cluster never has room for.

    Ray itself waits without a word. A cluster that was joined may grow: there it is said that the
    work waits for nodes.

    Args:
        config: says whether a cluster was joined.
        bundles: resources that the work reserves at once, such as `{"CPU": 1.0}` for each part.
        who: what reserves them, for the message.
        smaller: settings to make smaller.

    Raises:
        ConfigError: the local cluster has too few CPUs or GPUs.
    """
    import ray

    needed = Counter[str]()
    for bundle in bundles:
        needed.update(bundle)
    there = ray.cluster_resources()
    for kind, count in needed.items():
        has = there.get(kind, 0.0)
        if count <= has:
            continue
        where = "this machine" if config.address is None else "the cluster"
        text = f"{who} reserves {count:g} {kind}s and {where} has {has:g}"
        if config.address is None:
            raise ConfigError(f"{text}; give a smaller {smaller}")
        print(
            f"{text}: waiting for nodes; or stop, and give a smaller {smaller}",
            file=sys.stderr,
            flush=True,
        )


def raised_by(error: Exception) -> Exception:
    """Returns what a task raised: an error of ours as it was, any other with its remote trace."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, DarlaError) else error


def first_line(error: Exception) -> str:
    """Returns the first line of an error of Ray's, or of what a task raised.

    Ray's own messages run over pages, and wrap that of the task.
    """
    cause = getattr(error, "cause", None)
    error = cause if isinstance(cause, Exception) else error
    return (str(error).strip() or type(error).__name__).splitlines()[0]
