import re

from benchmarks.results import summarise


def headline_of(*scores) -> str:
    return summarise([score for rows in scores for score in rows])["headline"]


def floor_of(scores_of):
    return scores_of("none", algorithm="random-policy", seeds=1, source=0.0, target=0.0, frames=0)


def test_the_headline_says_that_darla_wins(scores_of) -> None:
    text = headline_of(
        scores_of("pixels", target=1.0), scores_of("darla", source=8.0), floor_of(scores_of)
    )
    assert text.startswith("Zero-shot in the target, DQN on DARLA’s frozen vision scores 5.")
    assert "] of its source score above chance; its strongest rival" in text
    assert "end-to-end pixels, scores" in text
    assert (
        ": DARLA scores 5.00 [" in text and "] more (95 % intervals; 3 seeds, fewer than 5)" in text
    )


def test_episodic_control_on_pixels_is_not_called_end_to_end(scores_of) -> None:
    names = {"darla": 5.0, "pixels": 1.0}
    scores = [scores_of(name, algorithm="ec", target=t) for name, t in names.items()]
    results = summarise([score for rows in scores for score in rows])
    assert "strongest rival, randomly projected pixels, scores" in results["headline"]
    labels = [row["label"] for row in (*results["rows"], *results["comparisons"])]
    assert "pixels, random projection" in labels and "pixels, end to end" not in labels


def test_the_headline_says_that_darla_loses(scores_of) -> None:
    text = headline_of(scores_of("pixels", target=9.0), scores_of("darla", target=2.0))
    assert ": DARLA scores 7.00 [" in text and "] less (" in text
    assert "more" not in text


def test_the_headline_settles_nothing_that_the_intervals_do_not(scores_of) -> None:
    text = headline_of(
        scores_of("pixels", target=6.1, frames=12, seeds=5), scores_of("darla", source=6.0, seeds=5)
    )
    assert ": the two are not told apart, difference −0.10 [" in text
    assert " after 12 frames against 1\u202f440\u202f000" in text
    assert text.endswith("; 5 seeds).")


def test_the_rival_is_the_strongest_that_never_saw_the_target(scores_of) -> None:
    text = headline_of(
        scores_of("darla"),
        scores_of("pixels", target=2.0),
        scores_of("dae", target=4.0),
        scores_of("factors", target=9.0),
        scores_of("domain-randomisation", target=9.5),
    )
    assert "strongest rival, features of the autoencoder, scores" in text


def test_the_algorithm_is_chosen_without_its_target_score(scores_of) -> None:
    text = headline_of(
        scores_of("darla", algorithm="ec", source=4.0, target=4.0),
        scores_of("darla", algorithm="dqn", source=8.0, target=1.0),
    )
    assert "DQN on DARLA’s frozen vision" in text and "EC" not in text


def test_few_seeds_are_said(scores_of) -> None:
    assert "One training seed" in summarise(scores_of(seeds=1))["notes"][0]
    assert "over layouts only" in summarise(scores_of(seeds=1))["headline"]
    assert "Only 3 training seeds" in summarise(scores_of(seeds=3))["notes"][0]
    assert not any("seeds" in note for note in summarise(scores_of(seeds=5))["notes"])


def test_what_is_left_out_is_said(scores_of) -> None:
    (note,) = summarise(scores_of(seeds=5))["notes"]
    assert "The random policy was not scored" in note
    (note,) = summarise(scores_of(seeds=5) + floor_of(scores_of))["notes"]
    assert "True factors were not scored with DQN" in note
    blind = scores_of("pixels", source=-1.0, target=0.0, seeds=5)
    notes = summarise(blind + scores_of("factors", seeds=5) + floor_of(scores_of))["notes"]
    assert any("DQN on end-to-end pixels is not told apart from the random" in n for n in notes)
    unsolved = scores_of("factors", seeds=5, encoder_ood=0.0)
    notes = summarise(scores_of(seeds=5) + unsolved + floor_of(scores_of))["notes"]
    (note,) = [note for note in notes if "normalised scores are left out there" in note]
    assert "DQN are not told apart from the random policy in looks that the vision never" in note
    assert not any("in the target" in note for note in notes)
    seen = scores_of("domain-randomisation", seeds=5)
    notes = summarise(seen + scores_of("factors", seeds=5) + floor_of(scores_of))["notes"]
    assert any("its target score is not zero-shot" in note for note in notes)


def test_targets_that_the_vision_never_saw_alone(scores_of) -> None:
    scores = [score for score in scores_of() if score.group != "target"]
    assert headline_of(scores).startswith("Zero-shot in looks that the vision never saw, DQN")


def test_the_headline_without_target_scores(scores_of) -> None:
    only_random = scores_of("none", algorithm="random-policy", seeds=1)
    assert "No trained policy" in summarise(only_random)["headline"]
    assert "No trained policy" in summarise([])["headline"]


def test_the_rival_is_of_the_same_algorithm(scores_of):
    text = headline_of(
        scores_of(),
        scores_of("pixels", target=2.0, spread=0.0),
        scores_of("dae", algorithm="ec", target=9.0, source=1.0, spread=0.0),
    )
    assert "strongest rival, end-to-end pixels, scores 2.00" in text


def test_the_difference_is_that_of_the_chosen_algorithm(scores_of):
    text = headline_of(
        scores_of(algorithm="ec", source=8.0, target=6.0, spread=0.1),
        scores_of("pixels", algorithm="ec", target=1.0, spread=0.1),
        scores_of(source=4.0, target=1.0, spread=0.1),
        scores_of("pixels", target=6.0, spread=0.1),
    )
    assert "EC on" in text and ": DARLA scores 5.0" in text and "more" in text


def test_an_interval_that_is_turned_around_stays_in_order(scores_of):
    text = headline_of(scores_of("pixels", target=9.0), scores_of("darla", target=2.0))
    low, high = map(float, re.search(r"DARLA scores 7\.00 \[(\S+), (\S+)\] less", text).groups())
    assert low < 7.0 < high
