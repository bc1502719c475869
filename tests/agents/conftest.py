import pytest

from agents.pool import WorkerPool
from darla.cluster import ray_session
from darla.config import RayConfig
from tests.toys import Catch


@pytest.fixture(scope="session")
def cluster():
    """One local Ray cluster for all tests that need workers."""
    with ray_session(RayConfig(workers=2)):
        yield


@pytest.fixture(scope="session")
def toy_pool(cluster):
    """Two workers that play the toy game."""
    with WorkerPool(RayConfig(workers=2, envs_per_worker=4), Catch) as pool:
        yield pool
