"""Visions of a user's own, from the file that registers them to the policy that sees through."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from darla.config import Config, load_config
from darla.errors import ConfigError, CorruptFileError, MissingFileError
from darla.perception import check_perception, load_perception
from darla.rundir import RunDirectory
from darla.storage import read_json
from darla.vision import own
from darla.vision.pretrain import models_of, train_vision, weights_file

PLUGIN = """
import torch
from darla.vision.own import register_vision

class Mean(torch.nn.Module):
    '''Mean colours times a weight that `train` sets to the number of pictures.'''

    def __init__(self, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(3))
        self.size = size

    def forward(self, pictures):
        assert pictures.shape[1:] == (self.size, self.size, 3) and pictures.dtype == torch.uint8
        return pictures.float().mean((1, 2)) * self.weight

def train(module, pictures, seed):
    assert pictures[torch.tensor([0, 1])].dtype == torch.uint8
    with torch.no_grad():
        module.weight.copy_(torch.full((3,), float(len(pictures))) + seed)

register_vision("mean", Mean, train)
register_vision("untrained", Mean)
register_vision("flat", lambda size: torch.nn.Flatten(0))
"""
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(own, "_VISIONS", {})
    path = tmp_path / "my_vision.py"
    path.write_text(PLUGIN)
    return path


def configured(plugin: Path, *words: str) -> Config:
    given = [f"environment.plugin={plugin}", "environment.size=32", f"runs={plugin.parent}"]
    names = "agents.perceptions=[own-mean,own-untrained]"
    return load_config("lab-smoke", [*given, names, *words])


def test_it_is_trained_once_on_the_frames_and_read_by_a_probe(
    plugin: Path, run: RunDirectory
) -> None:
    config = configured(plugin, "vision.seed=3")
    assert models_of(config) == ["own-mean", "own-untrained"], "no DAE, no beta-VAE"
    run = RunDirectory(run.path, config)
    report = train_vision(config, run, quiet=True)
    count = report["frames"]["train"]
    perception = load_perception("own-mean", run, 0, 0)
    expected = PICTURES.astype(np.float32).mean((1, 2)) * (count + 3)
    np.testing.assert_allclose(perception.encode(PICTURES, None), expected, rtol=1e-5)
    assert perception.shape == (3,) and perception.frozen and not perception.standard
    found = read_json(run.vision / "report.json")["own"]["own-mean"]
    assert found["width"] == 3 and found["fingerprint"] == perception.fingerprint
    assert found["probe"]["room"] >= 0.0
    assert run.finished("own-mean") and run.finished("own-untrained")

    weights_file(run, "own-mean").unlink()
    first = weights_file(run, "own-untrained").read_bytes()
    train_vision(config, run, quiet=True)
    assert load_perception("own-mean", run, 0, 0).fingerprint == perception.fingerprint
    assert weights_file(run, "own-untrained").read_bytes() == first


def test_its_first_weights_follow_from_the_seed_alone(plugin: Path) -> None:
    torch.manual_seed(7)
    untouched = torch.get_rng_state()
    weights = [
        own.make_own("own-untrained", configured(plugin, f"vision.seed={seed}")).weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), untouched)


def test_a_process_that_does_not_know_the_file_unpickles_the_encoder(plugin: Path) -> None:
    config = configured(plugin)
    encoder = own.OwnEncoder("own-mean", config, own.make_own("own-mean", config))
    (plugin.parent / "encoder.pkl").write_bytes(pickle.dumps(encoder))
    np.save(plugin.parent / "pictures.npy", PICTURES)
    program = (
        "import pickle, numpy as np, torch\n"
        "encoder = pickle.load(open('encoder.pkl', 'rb'))\n"
        "np.save('latents.npy', encoder(torch.from_numpy(np.load('pictures.npy'))).numpy())\n"
    )
    path = {"PYTHONPATH": str(Path(own.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=plugin.parent, env=path, check=True)
    latents = encoder(torch.from_numpy(PICTURES)).numpy()
    np.testing.assert_array_equal(np.load(plugin.parent / "latents.npy"), latents)


def test_what_is_not_registered_is_refused_before_anything_runs(plugin: Path) -> None:
    config = configured(plugin)
    check_perception("own-mean", config, 0)
    with pytest.raises(ConfigError, match=r"registers no vision 'meen' \(did you mean 'mean'\?\)"):
        check_perception("own-meen", config, 0)
    without = load_config("lab-smoke", ["agents.perceptions=[own-mean]"])
    with pytest.raises(ConfigError, match=r"give environment\.plugin=FILE\.py, .*'mean'"):
        check_perception("own-mean", without, 0)
    with pytest.raises(ConfigError, match="'Mean Colour'; a name has small letters"):
        own.register_vision("Mean Colour", lambda size: torch.nn.Identity())


def test_what_goes_wrong_in_the_users_own_code_is_said_to_be_there(plugin: Path) -> None:
    plugin.write_text(
        PLUGIN
        + """
def fail(*_):
    raise KeyError("weights")

class Broken(torch.nn.Linear):
    forward = fail

register_vision("unmade", fail)
register_vision("unlearned", Mean, fail)
register_vision("unseeing", lambda size: Broken(1, 1))
"""
    )
    config, pictures = configured(plugin), torch.from_numpy(PICTURES)
    blamed = rf"of environment.plugin '{plugin}' fails when it {{}}: KeyError: 'weights'"
    with pytest.raises(ConfigError, match="'own-unmade' " + blamed.format("is made")):
        own.make_own("own-unmade", config)
    with pytest.raises(ConfigError, match="'own-unlearned' " + blamed.format("learns")):
        own.train_own("own-unlearned", config, pictures, quiet=True)
    with pytest.raises(ConfigError, match="'own-unseeing' " + blamed.format("encodes pictures")):
        own.OwnEncoder("own-unseeing", config, own.make_own("own-unseeing", config))


def test_a_module_that_gives_no_row_per_picture_is_refused(plugin: Path) -> None:
    config = configured(plugin)
    with pytest.raises(ConfigError, match=r"makes \[6144\] of two pictures; it must give \[2, D"):
        own.OwnEncoder("own-flat", config, own.make_own("own-flat", config))


def test_weights_that_are_missing_or_of_another_network_are_named(plugin: Path) -> None:
    run = RunDirectory.open(configured(plugin))
    with pytest.raises(MissingFileError, match="own-mean.safetensors is not there"):
        load_perception("own-mean", run, 0, 0)
    run.vision.mkdir()
    weights_file(run, "own-mean").write_bytes(b"nonsense")
    with pytest.raises(CorruptFileError, match=r"own-mean\.safetensors"):
        load_perception("own-mean", run, 0, 0)
