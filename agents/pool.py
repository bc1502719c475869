"""The workers of a run, supervised: one that dies is started again from its last chunk.

Supervision, restarts and the book of requests in flight are those of RLlib's
`FaultTolerantActorManager`; what a restarted worker must be told before it can repeat what it was
doing is known here.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import ray

from agents.acting import Episode, spread
from agents.policy import Actions, Policy
from agents.seeding import derive
from agents.worker import (
    Chunk,
    Digest,
    EnvironmentFactory,
    NotBegunError,
    Worker,
    WorkerState,
    call,
)
from darla.cluster import check_capacity, raised_by
from darla.config import RayConfig
from darla.errors import DarlaError
from envs.domains import Domain
from envs.rendering import choose_backend

if TYPE_CHECKING:
    from darla.perception import Perception

RESTARTS_IN_A_ROW = 3
RESTART_SECONDS = 300.0
_WAIT_SECONDS = 1.0
_IN_FLIGHT = 4


class WorkerPool:
    """The workers of a run; a context manager inside `darla.cluster.ray_session`.

    Requests are sent by `send` and answered in `ready` or `collect`, by name. A request whose
    worker dies is repeated by the worker's successor, which Ray starts, on another machine where
    need be. It goes on from the state that came with the last chunk: the same chunk comes again,
    with the same bits.

    Args:
        config: number of workers, of their environments and of CPUs.
        factory: makes vector environments, such as `envs.make_vector` bound to a configuration.

    Attributes:
        restarts: how often a worker was started again.
    """

    def __init__(self, config: RayConfig, factory: EnvironmentFactory) -> None:
        choose_backend()  # RLlib imports MuJoCo
        from ray.rllib.utils import actor_manager

        reserved = [{"CPU": config.cpus_per_worker}] * config.workers
        check_capacity(config, reserved, "ray.workers", "ray.cpus_per_worker or ray.workers")
        # A worker's death is reported here, in one line; the manager's own report is a page.
        actor_manager.logger.setLevel(logging.CRITICAL)
        self.config = config
        self.restarts = 0
        actor = ray.remote(num_cpus=config.cpus_per_worker, max_restarts=-1, max_task_retries=0)(
            Worker
        )
        actors: list[Any] = [actor.remote(factory, threads=1) for _ in range(config.workers)]
        self._manager: Any = actor_manager.FaultTolerantActorManager(
            actors,
            max_remote_requests_in_flight_per_actor=_IN_FLIGHT,
        )
        self._requests: dict[tuple[int, str], tuple[str, dict[str, Any]]] = {}
        self._beginnings: list[dict[str, Any]] = []
        self._policy: Policy | None = None
        self._digest: Digest | None = None
        self._states: dict[int, WorkerState] = {}
        self._failures = dict.fromkeys(range(config.workers), 0)

    def __enter__(self) -> Self:
        """Returns the pool."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the workers."""
        self._manager.clear()

    @property
    def size(self) -> int:
        """Number of workers."""
        return self.config.workers

    @property
    def streams(self) -> int:
        """Number of environments over all workers."""
        return self.config.workers * self.config.envs_per_worker

    # -- training ----------------------------------------------------------------------------------

    def begin(self, perception: Perception, domains: Sequence[Domain], seed: int) -> Actions:
        """Starts the training environments of every worker; returns what can be done in them.

        What an earlier training left behind is forgotten.
        """
        self._forget()
        shared = ray.put(perception)
        self._beginnings = [
            {
                "perception": shared,
                "domains": domains,
                "num_envs": self.config.envs_per_worker,
                "seed": derive(seed, "worker", index),
            }
            for index in range(self.size)
        ]
        for index, options in enumerate(self._beginnings):
            self.send(index, "begin", "begin", **options)
        return self.collect("begin")[0]

    def adopt(self, policy: Policy, digest: Digest | None = None) -> None:
        """Gives every worker a copy of the policy; a restarted worker gets its present state."""
        self._policy, self._digest = policy, digest
        shared = ray.put(policy)
        for index in range(self.size):
            self.send(index, "adopt", "adopt", policy=shared, digest=digest)
        self.collect("adopt")

    def sample(self, index: int, message: Any, epsilons: np.ndarray) -> None:
        """Lets a worker update its policy and sample; the answer, "sample", is a Chunk.

        Args:
            index: the worker.
            message: what its policy's `update` takes, or a Ray reference to it.
            epsilons: share of random actions in every step, float [T].
        """
        self.send(index, "sample", "sample", message=message, epsilons=epsilons)

    def states(self) -> list[tuple[WorkerState, dict[str, np.ndarray]]]:
        """Returns where every worker's training stands after its last chunk, and its digest.

        None may be sampling, and each must have sampled.
        """
        for index in range(self.size):
            self.send(index, "digest", "digest_state")
        digests = self.collect("digest")
        return [(self._states[index], digest) for index, digest in enumerate(digests)]

    def load(self, states: Sequence[tuple[WorkerState, dict[str, np.ndarray]]]) -> None:
        """Lets every worker continue from what `states` returned, after `begin` and `adopt`."""
        for index, (state, digest_state) in enumerate(states):
            self._states[index] = state
            self.send(index, "load", "load", state=state, digest_state=digest_state)
        self.collect("load")

    # -- evaluation --------------------------------------------------------------------------------

    def launch_evaluation(
        self,
        policy: Policy | None,
        perception: Perception | None,
        exams: Sequence[tuple[Sequence[Domain], int]],
        *,
        epsilon: float,
        seed: int,
    ) -> list[list[int]]:
        """Lets the workers play, as `evaluate` does, which also waits.

        Returns:
            Per worker the numbers of the exams that it takes part in. "evaluation" answers, for
            each worker that takes part in any, with a list of episodes for each of them.
        """
        shares = [
            spread(episodes, self.size, self.config.envs_per_worker, seed) for _, episodes in exams
        ]
        what = {"policy": ray.put(policy), "perception": ray.put(perception), "epsilon": epsilon}
        parts = []
        for index in range(self.size):
            parts.append([k for k, share in enumerate(shares) if share[index][1]])
            own = [(exams[k][0], shares[k][index][1], shares[k][index][0]) for k in parts[-1]]
            if own:
                self.send(index, "evaluation", "evaluate", exams=own, **what)
        return parts

    def evaluate(
        self,
        policy: Policy | None,
        perception: Perception | None,
        exams: Sequence[tuple[Sequence[Domain], int]],
        *,
        epsilon: float,
        seed: int,
    ) -> list[list[Episode]]:
        """Plays exams side by side, each spread evenly over all environments.

        The layouts of an exam follow from `seed`, its domains, its number of episodes and the Ray
        settings, never from the policy or from other exams.

        Args:
            policy: what acts; None is the uniform random policy.
            perception: what it sees through; None for the random policy.
            exams: of each the domains, of which each episode draws one uniformly, and the number
                of episodes, at least 1.
            epsilon: share of random actions, in [0, 1].
            seed: seed of layouts and of random actions.

        Returns:
            The episodes of each exam, in an order that does not depend on timing.

        Raises:
            FingerprintError: the policy was trained on another perception.
        """
        parts = self.launch_evaluation(policy, perception, exams, epsilon=epsilon, seed=seed)
        episodes: list[list[Episode]] = [[] for _ in exams]
        played = self.collect("evaluation")
        for numbers, answers in zip(filter(None, parts), played, strict=True):
            for number, answer in zip(numbers, answers, strict=True):
                episodes[number] += answer
        return episodes

    # -- requests ----------------------------------------------------------------------------------

    def send(self, index: int, name: str, method: str, **options: Any) -> None:
        """Calls a method of a worker; one request of a name at a time."""
        if (index, name) in self._requests:
            raise ValueError(f"worker {index} has not answered '{name}' yet")
        self._requests[index, name] = method, options
        self._fire(index, name)

    def waiting(self, name: str) -> list[int]:
        """Returns the workers that have not answered a request."""
        return [index for index, other in self._requests if other == name]

    def ready(self, name: str) -> list[tuple[int, Any]]:
        """Returns (worker, answer) of the requests of a name that are answered by now.

        Waits for the first of them, for a second at most.

        Args:
            name: which requests.

        Raises:
            DarlaError: a worker raised one, or died again and again.
        """
        answers, died = [], {}
        calls, _, _ = self._manager._filter_calls_by_tag(name)  # it would wait for all of them
        if calls:
            ray.wait(calls, timeout=_WAIT_SECONDS)
        for result in self._manager.fetch_ready_async_reqs(tags=name):
            index, answer = result.actor_id, result.get()
            if result.ok:
                answers.append((index, answer))
                del self._requests[index, name]
                self._failures[index] = 0
                if isinstance(answer, Chunk):
                    self._states[index] = answer.state
            elif isinstance(answer, ray.exceptions.RayTaskError) and not _forgot(answer):
                del self._requests[index, name]
                self._manager.set_actor_state(index, healthy=True)
                raise raised_by(answer)
            else:
                died[index] = answer
        for index, error in died.items():
            self._revive(index, error)
        return answers

    def collect(self, name: str) -> list[Any]:
        """Waits for the answers of a name; returns them in the order of the workers.

        Raises:
            DarlaError: a worker raised one, or died again and again.
        """
        answers: dict[int, Any] = {}
        while self.waiting(name):
            answers |= dict(self.ready(name))
        return [answers[index] for index in sorted(answers)]

    def _fire(self, index: int, name: str) -> None:
        method, options = self._requests[index, name]
        self._manager.foreach_actor_async(
            [call],
            name,
            kwargs=[{"method": method, **options}],
            remote_actor_ids=[index],
            healthy_only=False,
        )

    def _forget(self) -> None:
        """Drops the requests, and the answers, that belong to an earlier training."""
        for index in range(self.size):
            self._manager.set_actor_state(index, healthy=False)
            self._manager.set_actor_state(index, healthy=True)
        self._requests.clear()
        self._states.clear()
        self._policy, self._digest = None, None

    def _revive(self, index: int, error: Exception) -> None:
        """Brings a worker that died to where it was, and repeats what it had been asked."""
        self._failures[index] += 1
        if self._failures[index] > RESTARTS_IN_A_ROW:
            raise DarlaError(
                f"worker {index} died {self._failures[index]} times in a row (out of memory?); "
                "repeat the command to continue from the last checkpoint"
            ) from error
        self.restarts += 1
        print(f"worker {index} died; starting it again", file=sys.stderr, flush=True)
        until = time.monotonic() + RESTART_SECONDS
        while not self._manager.is_actor_healthy(index):
            self._manager.probe_unhealthy_actors(timeout_seconds=5.0, mark_healthy=True)
            if time.monotonic() > until:
                raise DarlaError(
                    f"worker {index} died, and for {RESTART_SECONDS:.0f} s no machine had room "
                    f"for it (ray.cpus_per_worker={self.config.cpus_per_worker:g}); repeat the "
                    "command to continue from the last checkpoint"
                ) from error
        pending = [name for other, name in self._requests if other == index]
        try:
            ray.get(self._catch_up(index, pending))
        except ray.exceptions.RayTaskError as failure:
            raise raised_by(failure) from error
        except ray.exceptions.RayError as failure:
            self._manager.set_actor_state(index, healthy=False)
            self._revive(index, failure)
            return
        for name in pending:
            self._fire(index, name)

    def _catch_up(self, index: int, pending: Sequence[str]) -> list[ray.ObjectRef]:
        """Tells a new worker what its predecessor knew, except what it will be told again."""
        actor = self._manager.actors()[index]
        calls = []
        if self._beginnings and "begin" not in pending:
            calls.append(actor.begin.remote(**self._beginnings[index]))
        if self._policy is not None and "adopt" not in pending:
            calls.append(actor.adopt.remote(self._policy, self._digest))
        if index in self._states and "load" not in pending:
            calls.append(actor.load.remote(self._states[index]))
        return calls


def _forgot(error: ray.exceptions.RayTaskError) -> bool:
    """Whether a worker has died unnoticed, while it was idle, and Ray has started it again."""
    return isinstance(error.cause, NotBegunError)
