import pytest

from darla.cluster import ray_session
from darla.config import RayConfig


@pytest.fixture(scope="session")
def cluster():
    """One local Ray cluster for all tests that need workers."""
    with ray_session(RayConfig(workers=2)):
        yield
