"""Metrics of the vision on reconstructions and latents whose answers are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from darla.frames import Frames
from darla.vision.evaluation import (
    describe_latents,
    factor_scores,
    probe,
    reconstruction_errors,
    to_float,
)

CPU = torch.device("cpu")


def in_turn(pictures: torch.Tensor):
    """Reconstructs successive batches as successive pictures of another tensor."""
    position = 0

    def reconstruct(target: torch.Tensor) -> torch.Tensor:
        nonlocal position
        position += len(target)
        return to_float(pictures[position - len(target) : position])

    return reconstruct


def test_to_float_keeps_colours_and_is_channels_last() -> None:
    pictures = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    pictures[0, 1, 2] = torch.tensor([255, 0, 51])
    converted = to_float(pictures)
    assert converted[0, :, 1, 2].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert converted.is_contiguous(memory_format=torch.channels_last)


def test_every_byte_is_the_same_in_bfloat16_by_either_way() -> None:
    pictures = torch.arange(256).byte().view(1, 16, 16, 1)
    assert torch.equal(to_float(pictures, torch.bfloat16), to_float(pictures).bfloat16())


def test_a_perfect_reconstruction_has_no_error(frames: Frames) -> None:
    errors = reconstruction_errors(lambda target: target, frames, CPU)
    assert errors == {"pixels": 0.0, "objects": 0.0, "objects/square": 0.0}


def test_painting_the_objects_away_has_error_one(frames: Frames) -> None:
    background = torch.from_numpy(frames.labels["background"])
    errors = reconstruction_errors(in_turn(background), frames, CPU)
    assert errors["objects"] == pytest.approx(1.0)
    absent = (to_float(background) - to_float(frames.pictures)).square().mean().item()
    assert errors["pixels"] == pytest.approx(absent, rel=1e-5)


def test_object_error_ignores_the_room(frames: Frames) -> None:
    mask = torch.from_numpy(frames.labels["kinds"] >= 0)[..., None]
    room_wrong = torch.where(mask, frames.pictures, 255 - frames.pictures)
    errors = reconstruction_errors(in_turn(room_wrong), frames, CPU)
    assert errors["objects"] == 0.0
    assert errors["pixels"] > 0.05


def test_without_labels_only_pixels_are_measured(frames: Frames) -> None:
    bare = Frames(frames.pictures, {"domain": frames.labels["domain"]}, frames.domains)
    assert set(reconstruction_errors(lambda target: target, bare, CPU)) == {"pixels"}


def test_probes_read_latents_that_hold_the_answer(frames: Frames) -> None:
    labels = frames.labels
    columns = [labels["domain"], labels["bearing"], labels["distance"]]
    latents = np.stack(columns, axis=1).astype(np.float32)
    result = probe(latents, frames)
    assert result["room"] == result["room/visible"] == 1.0
    assert result["bearing"] < 0.2
    assert result["distance"] < 0.05


def test_any_label_of_one_number_is_probed_where_it_is_known(frames: Frames) -> None:
    height = np.random.default_rng(0).normal(size=len(frames))
    height[::5] = np.nan
    labelled = dataclasses.replace(frames, labels={**frames.labels, "hand_z": height})
    latents = np.stack([np.nan_to_num(height), -np.ones(len(frames))], axis=1)
    assert probe(latents, labelled)["hand_z"] < 0.05
    assert "hand_z" not in probe(latents, frames)


def test_probes_of_noise_stay_at_chance(frames: Frames) -> None:
    noise = np.random.default_rng(0).normal(size=(len(frames), 4)).astype(np.float32)
    result = probe(noise, frames)
    assert abs(result["room"] - 0.5) < 0.12
    assert 0.5 <= result["room/chance"] < 0.65
    assert result["bearing"] > 3


def test_active_units_are_those_with_a_kl() -> None:
    divergences = np.tile([2.0, 0.0, 0.01, 0.5], (10, 1))
    summary = describe_latents(divergences)
    assert summary["active_units"] == 2
    assert summary["kl"] == pytest.approx(2.51)
    assert summary["kl_per_latent"] == [2.0, 0.0, 0.01, 0.5]


def test_latents_that_are_the_labels_are_disentangled(frames: Frames) -> None:
    labels = frames.labels
    columns = [labels["domain"], labels["bearing"], labels["distance"]]
    latents = np.stack([(c - c.mean()) / c.std() for c in columns], axis=1).astype(np.float32)
    scores = factor_scores(latents, frames)
    assert scores["factors"] == ["room", "bearing", "distance"], "the only kind is no factor"
    assert scores["frames"] == (labels["distance"] < 6).sum()
    assert scores["beta_vae"] > 0.98 and scores["factor_vae"] > 0.98
    assert scores["sap"] > 0.8 and scores["modularity"] > 0.9
    turn = np.array([[1.0, 0.0, 0.0], [0.0, 0.7, -0.7], [0.0, 0.7, 0.7]])
    assert factor_scores(latents @ turn, frames)["sap"] < 0.6


def test_a_factor_that_follows_from_another_is_left_out(frames: Frames) -> None:
    kind = np.random.default_rng(9).integers(0, 2, len(frames)) * 2 + frames.labels["domain"]
    pairs = tuple({"room": i, "pair": i, "wall": "grey"} for i in range(2))
    labelled = Frames(frames.pictures, {**frames.labels, "kind": kind}, frames.domains, pairs)
    noise = np.random.default_rng(1).normal(size=(len(frames), 2))
    assert factor_scores(noise, labelled)["factors"] == ["kind", "bearing", "distance"]
    bare = Frames(frames.pictures, {"domain": frames.labels["domain"]}, frames.domains, pairs)
    assert factor_scores(noise, bare) == {}, "pair is room under another name"


def test_the_error_on_objects_is_a_ratio_of_sums(frames):
    kinds = frames.labels["kinds"].copy()
    kinds[:100][kinds[:100] == 0] = 1
    two = dataclasses.replace(
        frames, labels={**frames.labels, "kinds": kinds}, kinds=("square", "other")
    )
    gone = torch.from_numpy(frames.labels["background"]).clone()
    gone[100:] = frames.pictures[100:]
    errors = reconstruction_errors(in_turn(gone), two, CPU)
    assert (errors["objects/square"], errors["objects/other"]) == (0.0, pytest.approx(1.0))
    assert errors["objects"] == pytest.approx(0.25, abs=0.02)


def test_bearings_of_far_objects_are_not_probed(frames):
    far = np.arange(len(frames)) % 2 == 0
    labels = frames.labels
    latents = labels["bearing"][:, None].astype(np.float32)
    bearing = np.where(far, -5 * labels["bearing"], labels["bearing"])
    distance = np.where(far, 6.5, labels["distance"])
    changed = dataclasses.replace(
        frames, labels={**labels, "bearing": bearing, "distance": distance}
    )
    assert probe(latents, changed)["bearing"] < 0.2


def test_probes_are_scored_on_frames_that_they_were_not_fitted_to(frames):
    noise = np.random.default_rng(0).normal(size=(len(frames), 190)).astype(np.float32)
    result = probe(noise, frames)
    assert result["room"] < 0.65 and result["bearing"] > 3


def test_probes_are_read_in_later_walks_than_they_were_fitted_to(frames):
    later = np.arange(len(frames)) >= len(frames) // 2
    labels = frames.labels
    sign = np.where(later, -1, 1)
    domain, bearing = (labels["domain"] * 2 - 1) * sign, labels["bearing"] * sign
    latents = np.stack([domain, bearing], axis=1).astype(np.float32)
    result = probe(latents, frames)
    assert result["room"] < 0.1, "a random half would show both relations"
    assert result["bearing"] > 1.5 * np.median(np.abs(labels["bearing"]))


def test_what_is_asked_of_objects_is_asked_where_one_is_in_view(frames):
    hidden = np.random.default_rng(3).random(len(frames)) < 0.4
    kind = np.random.default_rng(4).integers(0, 2, len(frames))
    kinds = frames.labels["kinds"].copy()
    kinds[hidden] = -1
    bearing = np.where(hidden, 1e4, frames.labels["bearing"])
    labels = {**frames.labels, "kinds": kinds, "kind": kind, "bearing": bearing}
    latents = np.stack([np.where(hidden, 0, kind * 2 - 1), frames.labels["bearing"]], axis=1)
    result = probe(latents.astype(np.float32), dataclasses.replace(frames, labels=labels))
    assert result["kind"] > 0.98 and result["bearing"] < 0.1


def test_scores_of_walks_are_not_helped_by_neighbours(frames):
    """Latents that only tell which walk a frame is of, eight frames each."""
    walk = np.arange(len(frames)) // 8
    rng = np.random.default_rng(5)
    latents = rng.normal(size=(walk.max() + 1, 4))[walk]
    labels = dict(frames.labels)
    labels["domain"] = rng.integers(0, 2, walk.max() + 1)[walk]
    labels["bearing"] = rng.normal(size=walk.max() + 1)[walk] * 20
    scores = factor_scores(latents, dataclasses.replace(frames, labels=labels))
    assert scores["dci_forest/informativeness"] < 0.35


def test_an_object_of_few_pixels_is_not_in_view(frames):
    kinds = frames.labels["kinds"].copy()
    for i in range(200):
        kinds[i].flat[np.flatnonzero(kinds[i] >= 0)[3:]] = -1
    few = dataclasses.replace(frames, labels={**frames.labels, "kinds": kinds})
    latents = np.random.default_rng(0).normal(size=(len(frames), 3))
    assert factor_scores(latents, few)["frames"] == 200
