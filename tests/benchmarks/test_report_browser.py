"""The report in a real browser: it asks for nothing, says nothing, and its tables can be sorted."""

from pathlib import Path

import pytest

from benchmarks.report import write_report
from darla.config import AgentsConfig, Config
from darla.rundir import RunDirectory
from darla.storage import append_jsonl

ROWS = "[...document.querySelectorAll('table.scores tbody th')].map(th => th.textContent.trim())"
SORTS = "[...document.querySelectorAll('table.scores thead th')].map(th => th.ariaSort)"


@pytest.fixture
def page_file(tmp_path: Path, scores_of) -> Path:
    run = RunDirectory.open(Config(name="r", runs=str(tmp_path), agents=AgentsConfig(seeds=(0, 1))))
    rows = scores_of("darla", target=5.0) + scores_of("pixels", target=8.0)
    rows += scores_of("dae", target=-1.0)
    append_jsonl(run.scores, [score.row() for score in rows])
    write_report([run.path], run.report)
    return run.report


def test_a_press_on_a_heading_sorts_by_it(page_file: Path, open_page) -> None:
    page = open_page(page_file)
    assert page.evaluate(ROWS) == ["DARLA", "DAE features", "pixels, end to end"]
    target = page.locator("table.scores thead button").nth(3)
    assert target.inner_text().strip() == "target"
    target.click()
    assert page.evaluate(ROWS) == ["pixels, end to end", "DARLA", "DAE features"]
    assert page.evaluate(SORTS).count("descending") == 1
    target.click()
    assert page.evaluate(ROWS) == ["DAE features", "DARLA", "pixels, end to end"]
    assert page.evaluate(SORTS)[3] == "ascending"


def test_keys_sort_by_words(page_file: Path, open_page) -> None:
    page = open_page(page_file)
    page.locator("table.scores thead button").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(ROWS) == ["DAE features", "DARLA", "pixels, end to end"]
    page.keyboard.press("Space")
    assert page.evaluate(ROWS) == ["pixels, end to end", "DARLA", "DAE features"]


def test_the_page_reads_without_its_script(page_file: Path, open_page) -> None:
    page = open_page(page_file, java_script_enabled=False)
    assert page.locator("table.scores tbody tr").count() == 3
    assert page.locator("thead button").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(page_file: Path, open_page, scheme: str) -> None:
    page = open_page(page_file, width=390, height=844, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".narrow").first.is_visible()
    assert not page.locator(".wide").first.is_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(253, 253, 251)") == (scheme == "light")


def test_what_is_folded_is_printed(page_file: Path, open_page) -> None:
    page = open_page(page_file)
    folded = page.locator("details:not([open])").count()
    assert folded > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded
