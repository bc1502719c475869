"""What tests of several worlds share."""

from __future__ import annotations

import sys

import pytest

from tests.envs import deepmind_lab_double


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[deepmind_lab_double.Lab]:
    """Puts the double in the place of `deepmind_lab`, and returns its class."""
    monkeypatch.setitem(sys.modules, "deepmind_lab", deepmind_lab_double)
    return deepmind_lab_double.Lab
