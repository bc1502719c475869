"""Perceptions: shapes, fingerprints, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from darla.config import PERCEPTIONS, Config, VAEConfig, VisionConfig
from darla.errors import ConfigError, MissingFileError
from darla.perception import ON_FRAMES, check_perception, load_perception
from darla.rundir import RunDirectory
from darla.vision.evaluation import posterior
from darla.vision.pretrain import make_dae, make_vae, save_model

STATE = 7


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.open(Config(name="toy", runs=str(tmp_path)))
    run.vision.mkdir()
    return run


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)


def test_darla_is_the_posterior_mean(run: RunDirectory, frames: np.ndarray) -> None:
    vae = make_vae(run.config)
    save_model(vae, run.vision / "vision.safetensors")
    perception = load_perception("darla", run, 0, STATE)
    latents = perception.encode(frames, None)
    assert latents.shape == (5, 32) and latents.dtype == np.float32
    assert perception.shape == (32,) and perception.dim == 32 and perception.frozen
    exact = posterior(vae, torch.from_numpy(frames))[0]
    np.testing.assert_allclose(latents, exact, atol=0.01 * np.abs(exact).max())  # bfloat16


def test_dae_is_the_bottleneck(run: RunDirectory, frames: np.ndarray) -> None:
    save_model(make_dae(run.config), run.vision / "dae.safetensors")
    assert load_perception("dae", run, 0, STATE).encode(frames, None).shape == (5, 100)


def test_random_follows_from_the_seed(run: RunDirectory, frames: np.ndarray) -> None:
    one, same, other = (load_perception("random", run, seed, STATE) for seed in (3, 3, 4))
    assert (one.encode(frames, None) == same.encode(frames, None)).all()
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert (one.encode(frames, None) != other.encode(frames, None)).any()


def test_pixels_pass_as_they_are(run: RunDirectory, frames: np.ndarray) -> None:
    perception = load_perception("pixels", run, 0, STATE)
    assert (perception.encode(frames, None) == frames).all()
    assert perception.shape == (64, 64, 3) and perception.dtype == np.uint8
    assert not perception.frozen


def test_factors_are_the_ground_truth(run: RunDirectory) -> None:
    perception = load_perception("factors", run, 0, STATE)
    state = np.random.default_rng(0).normal(size=(2, STATE)).astype(np.float32)
    assert (perception.encode(None, state) == state).all()
    assert perception.needs == "state" and perception.shape == (STATE,)
    with pytest.raises(ValueError, match="needs state"):
        perception.encode(np.zeros((1, 64, 64, 3), np.uint8), None)


def test_the_fingerprint_is_of_the_weights(run: RunDirectory) -> None:
    marks = []
    for _ in range(2):
        save_model(make_vae(run.config), run.vision / "vision.safetensors")
        marks.append(load_perception("darla", run, 0, STATE).fingerprint)
    assert marks[0] != marks[1]


def test_a_perception_crosses_processes(run: RunDirectory, frames: np.ndarray) -> None:
    perception = load_perception("random", run, 0, STATE)
    copy = pickle.loads(pickle.dumps(perception))
    assert (copy.encode(frames, None) == perception.encode(frames, None)).all()


def test_an_untrained_vision_names_the_command(run: RunDirectory) -> None:
    with pytest.raises(MissingFileError, match="darla pretrain"):
        load_perception("darla", run, 0, STATE)


@pytest.mark.parametrize("name", ["darla", "fine-tuned", "entangled", "beta-vae", "dae"])
def test_a_vision_of_another_kind_is_refused(name: str) -> None:
    vision = VisionConfig(vae=VAEConfig(reconstruction="pixel"))
    with pytest.raises(ConfigError, match=r"needs vision.vae.reconstruction=dae.*beta_vae.beta"):
        check_perception(name, Config(name="toy", vision=vision), STATE)


def test_an_encoder_of_another_shape_cannot_be_learned_further() -> None:
    config = Config(name="toy", vision=VisionConfig(vae=VAEConfig(network="burgess")))
    check_perception("darla", config, STATE)
    with pytest.raises(ConfigError, match=r"vision.vae.network=darla, this run has 'burgess'"):
        check_perception("fine-tuned", config, STATE)


@pytest.mark.parametrize("name", ["pixels", "pixels+augmentation", "domain-randomisation"])
def test_end_to_end_rows_see_the_same(run: RunDirectory, frames: np.ndarray, name: str) -> None:
    perception = load_perception(name, run, 0, STATE)
    assert (perception.encode(frames, None) == frames).all()
    assert perception.fingerprint == load_perception("pixels", run, 0, STATE).fingerprint
    assert perception.augmented == (name == "pixels+augmentation") and perception.start is None


@pytest.mark.parametrize("name", ["entangled", "beta-vae"])
def test_further_visions_lie_in_files_of_their_own(
    run: RunDirectory, frames: np.ndarray, name: str
) -> None:
    vae = make_vae(run.config)
    save_model(vae, run.vision / f"{name}.safetensors")
    perception = load_perception(name, run, 0, STATE)
    exact = posterior(vae, torch.from_numpy(frames))[0]
    latents = perception.encode(frames, None)
    np.testing.assert_allclose(latents, exact, atol=0.01 * np.abs(exact).max())  # bfloat16
    assert perception.standard


def test_every_name_of_the_configuration_is_a_perception(run: RunDirectory) -> None:
    save_model(make_dae(run.config), run.vision / "dae.safetensors")
    for model in ("vision", "entangled", "beta-vae"):
        save_model(make_vae(run.config), run.vision / f"{model}.safetensors")
    for name in PERCEPTIONS:
        perception = load_perception(name, run, 0, STATE)
        assert perception.name == name
        assert (len(perception.shape) == 3) == (name in ON_FRAMES)
