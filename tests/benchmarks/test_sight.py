import re

from benchmarks.sight import scalar, show_vision

PROBE = {
    "room": 0.99,
    "room/chance": 0.54,
    "room/visible": 0.98,
    "room/visible/chance": 0.52,
    "bearing": 18.1,
    "altitude": 12.5,
}
REPORT = {
    "frames": {"train": 3800},
    "dae": {"pixels": 0.0177, "objects": 0.71, "objects/hat": 0.64},
    "vae": {"pixels": 0.2, "objects": 1.6, "objects/hat": 0.642, "through_dae/objects": 1.09},
    "latents": {"kl": 125.4, "kl_per_latent": [0.5, 4.0, 2.0, 1.0, 0.0], "active_units": 4},
    "probe": PROBE,
    "fingerprint": "b9f5",
}


def rows_of(text: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [[re.sub("<.*?>", "", cell) for cell in re.split("</t[hd]>", row)[:-1]] for row in rows]


def test_errors_stand_side_by_side() -> None:
    rows = rows_of(show_vision(REPORT, {}))
    assert ["", "DAE", "VAE", "VAE, as the DAE reads it"] in rows
    assert ["object pixels, relative", "0.71", "1.6", "1.09"] in rows
    assert ["… hat", "0.64", "0.642", "–"] in rows


def test_probes_stand_beside_chance_with_their_units() -> None:
    rows = rows_of(show_vision(REPORT, {}))
    assert ["room", "0.99", "0.54", "accuracy"] in rows
    assert ["room, where an object is in view", "0.98", "0.52", "accuracy"] in rows
    assert ["altitude", "12.5", "–", "median error, in its unit"] in rows, "of a world of one's own"
    assert ["bearing", "18.1", "–", "median error, degrees"] in rows


def test_the_probes_of_further_visions_are_tables_too() -> None:
    own = {"own-mine": {"width": 8, "probe": {**PROBE, "room": 0.51}}}
    more = {"beta-vae": {"probe": {**PROBE, "room": 0.77}, "latents": {"kl": 3.25}}, "own": own}
    text = show_vision({**REPORT, **more}, {})
    rows = rows_of(text)
    for accuracy in ("0.99", "0.77", "0.51"):
        assert ["room", accuracy, "0.54", "accuracy"] in rows
    assert ["kl", "3.25"] in rows and ["width", "8"] in rows
    for name in ("own-mine", "beta-vae"):
        assert f"What {name} tells about the scene" in text
    assert ["room/chance", "0.54"] not in rows
    assert "mine" in show_vision({"own": ["mine"]}, {}), "a damaged part is shown as it is"


def test_latents_are_bars_in_falling_order() -> None:
    text = show_vision(REPORT, {})
    assert "4 of 5 latents are active; 125 nats in all" in text
    wide = text.split('class="narrow"')[0]
    heights = [float(h) for h in re.findall(r'class="bar".*?height="([\d.]+)"', wide)]
    assert heights == sorted(heights, reverse=True) and len(heights) == 5


def test_what_is_not_known_is_shown_too() -> None:
    text = show_vision({"dae": {"loss": {"train": 1.5}}, "new": [1, 2, 3, 4]}, {"in_view": 0.75})
    rows = rows_of(text)
    assert ["train", "1.5"] in rows
    assert ["in view", "0.75"] in rows
    assert text.count('class="bar"') == 8


def test_values_are_written_for_people() -> None:
    given = (None, True, 7, -7, 12_345, 0.12345, -2.5, 123_456.7, [1, 2], "x")
    shown = ["–", "yes", "7", "−7", "12\u202f345", "0.123", "−2.5", "123\u202f457", "1, 2", "x"]
    assert [scalar(value) for value in given] == shown
