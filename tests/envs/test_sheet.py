"""The contact sheet shows every domain, and the domains look different."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darla.config import Config
from darla.errors import DomainError
from envs.registry import get_suite
from envs.sheet import draw_sheet, views_of


def test_the_sheet_has_a_row_per_domain(tmp_path: Path) -> None:
    config = Config(name="x", suite="lab-single")
    tags = draw_sheet(config, tmp_path / "sheet.png")
    assert list(tags) == [domain.id for domain in get_suite("lab-single").domains]
    assert "encoder-ood" in tags["lab/B/cake-balloon/light=0.6"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.height > len(tags) * 128


def test_a_change_of_any_factor_changes_the_picture() -> None:
    config = Config(name="x")
    means = {
        domain.id: views_of(config, domain, 2).astype(int)
        for domain in get_suite("lab-single").domains
    }
    names = list(means)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert np.abs(means[one] - means[other]).mean() > 1, (one, other)


def test_an_unknown_suite_draws_nothing(tmp_path: Path) -> None:
    with pytest.raises(DomainError, match="unknown suite 'lba'"):
        draw_sheet(Config(name="x", suite="lba"), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
