"""The replay page in a browser; the fixture fails on any request and on any console message."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import write_page
from tests.benchmarks.toy_replay import made_up

Page = Any
SECONDS = 2.0
PIXEL = """[...document.querySelectorAll('.frame')].map(canvas => {
    const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    return copy.getImageData(4, 4, 1, 1).data[0];
})"""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "replay.html"
    write_page([made_up(length=120), made_up("lab/B/hat-can", 300)], path)
    return path


@pytest.fixture
def ready(open_page: Callable[..., Page]) -> Callable[..., Page]:
    """Opens a page and waits until it can be used."""

    def open_(path: Path, **options: Any) -> Page:
        page = open_page(path, **options)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    return open_


def step_of(page: Page) -> int:
    """The step that the page says it is at; slider, text and value text must agree."""
    step = int(page.locator("#slider").input_value())
    assert page.locator("#where").inner_text() == f"step {step} of 300"
    assert page.locator("#slider").get_attribute("aria-valuetext") == f"step {step} of 300"
    return step


def brightness(page: Page) -> list[int]:
    """Of a marked pixel in each lane's frame; the made-up frames have their step's index there."""
    return page.evaluate(PIXEL)


def test_it_is_ready_soon_at_the_first_step(path, ready) -> None:
    page = ready(path)
    assert int(page.locator("html").get_attribute("data-ready")) < 1000 * SECONDS
    assert step_of(page) == 1
    assert brightness(page) == pytest.approx([0, 0], abs=3)
    assert page.locator(".now .action").count() == 2


def test_the_keys_step_through_both_lanes(path, ready) -> None:
    page = ready(path)
    for key, step in (
        ("ArrowRight", 2),
        ("Shift+ArrowRight", 12),
        ("ArrowLeft", 11),
        ("Shift+ArrowLeft", 1),
        ("End", 300),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        assert step_of(page) == step
        shown = [min(step, 120) - 1, (step - 1) % 256]
        assert brightness(page) == pytest.approx(shown, abs=3)


def test_the_slider_moves_both_pictures(path, ready) -> None:
    page = ready(path)
    page.locator("#slider").fill("101")
    assert brightness(page) == pytest.approx([100, 100], abs=3)
    page.locator("#slider").focus()
    page.keyboard.press("ArrowRight")
    assert step_of(page) == 102


def test_the_chart_is_clicked_to_seek(path, ready) -> None:
    page = ready(path)
    box = page.locator("#returns").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert step_of(page) == pytest.approx(150, abs=2)


def test_the_brackets_go_from_reward_to_reward(path, ready) -> None:
    page = ready(path)
    for key, step in (("]", 11), ("]", 61), ("]", 151), ("]", 151), ("[", 61), ("[", 11)):
        page.keyboard.press(key)
        assert step_of(page) == step
    assert page.locator("#lane-1 .reward").inner_text() == "▲ +1"
    page.get_by_label("Next reward").click()
    assert page.locator("#lane-1 .reward").inner_text() == "▼ −1"


def test_a_lane_that_is_over_says_so(path, ready) -> None:
    page = ready(path, fragment="t=120")
    assert page.locator("#lane-1 .over").is_hidden()
    page.keyboard.press("ArrowRight")
    assert page.locator("#lane-1 .over").inner_text() == "ended at step 120"
    assert page.locator("#lane-2 .over").is_hidden()


def test_the_space_bar_plays_and_pauses(path, ready) -> None:
    page = ready(path)
    page.locator("#speed").select_option("8")
    page.locator("h1").click()
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    page.wait_for_timeout(700)
    page.keyboard.press("Space")
    step = step_of(page)
    assert 10 < step < 300
    page.wait_for_timeout(200)
    assert step_of(page) == step
    page.locator("#play").focus()
    page.keyboard.press("Space")
    assert page.locator("#play").get_attribute("aria-pressed") == "true"


def test_it_stops_at_the_end_and_starts_again(path, ready) -> None:
    page = ready(path, fragment="t=299")
    page.locator("#play").click()
    page.wait_for_selector("#play[aria-pressed=false]")
    assert step_of(page) == 300
    page.locator("#play").click()
    assert step_of(page) < 20


def test_an_address_leads_to_its_step_and_lane(path, ready) -> None:
    page = ready(path, fragment="t=42&lane=2")
    assert step_of(page) == 42
    assert page.evaluate("document.activeElement.id") == "lane-2"
    length = page.evaluate("history.length")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_url("**#t=47&lane=2")
    assert page.evaluate("history.length") == length
    for given, step in ((7, 7), (9999, 300), (0, 1)):
        page.evaluate(f"location.hash = '#t={given}'")
        page.wait_for_selector(f"#where:text-is('step {step} of 300')")


def test_a_screen_reader_is_told_the_step_and_the_reward(path, ready) -> None:
    page = ready(path)
    page.keyboard.press("]")
    page.wait_for_selector("[aria-live=polite]:not(:empty)", state="attached")
    said = page.locator("[aria-live=polite]").inner_text()
    assert re.fullmatch(
        r"Step 11 of 300\. lab/A/hat-can: option-\d, reward \+1, return 1\."
        r" lab/B/hat-can: option-\d, reward \+1, return 1\.",
        said,
    )
    unnamed = """[...document.querySelectorAll('button, select, input, [role=img]')]
        .filter(e => !(e.getAttribute('aria-label') || e.textContent.trim())).length"""
    assert page.evaluate(unnamed) == 0


def test_the_chosen_action_and_what_moved_are_marked_in_words(path, ready) -> None:
    page = ready(path, fragment="t=5")
    for lane, recording in ((1, made_up(length=120)), (2, made_up("lab/B/hat-can", 300))):
        chosen = page.locator(f"#lane-{lane} tr.chosen")
        action = int(recording.arrays["actions"][4, 0])
        assert chosen.locator("th").inner_text() == f"option-{action}"
        assert chosen.locator(".note").inner_text() == "chosen"
        assert page.locator(f"#lane-{lane} .now .action").inner_text() == f"option-{action}"
    latents = made_up(length=120).arrays["latents"]
    moved = (made_up("lab/B/hat-can", 300).arrays["latents"][4] - latents.mean(0)) / latents.std(0)
    furthest = sorted(abs(moved).argsort()[-3:])
    names = [text.split()[0] for text in page.locator("#lane-2 .names span").all_inner_texts()]
    assert names == [f"z{latent}" for latent in furthest]
    assert page.locator("#lane-1 .names span").count() == 0


def test_the_keys_are_listed_and_do_nothing_meanwhile(path, ready) -> None:
    page = ready(path)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("ArrowRight")
    assert step_of(page) == 1
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_stacks_the_lanes_and_scrolls_down_only(path, ready, scheme: str) -> None:
    page = ready(path, width=390, height=844, color_scheme=scheme)
    first, second = (page.locator(f"#lane-{n}").bounding_box() for n in (1, 2))
    assert second["y"] >= first["y"] + first["height"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = ready(path)
    first, second = (wide.locator(f"#lane-{n}").bounding_box() for n in (1, 2))
    assert second["y"] == first["y"] and second["x"] > first["x"] + first["width"]


def test_several_choices_at_once_are_a_table(tmp_path, ready) -> None:
    recording = made_up(length=20, choices=(5,) * 9)
    write_page([recording], tmp_path / "arm.html")
    page = ready(tmp_path / "arm.html")
    rows = page.locator(".prefs tr")
    assert rows.count() == 9
    for row, action in enumerate(recording.arrays["actions"][0].tolist()):
        assert rows.nth(row).locator("td").nth(action).get_attribute("class") == "chosen"
        assert "✓" in rows.nth(row).locator("td").nth(action).inner_text()
    assert page.locator(".now .action").inner_text() == "9 choices"
