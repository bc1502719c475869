"""Visions of a user's own: frozen encoders that are scored as DARLA's are.

A Python file, named in `environment.plugin`, calls `register_vision`; `agents.perceptions` names
it as `own-NAME`. It is trained once, in stage 1, on the frames of D_U, and every algorithm learns
on what it makes of pictures (docs/your_own_vision.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import nn

from darla.config import OWN, PERCEPTION_NAMES, Config
from darla.devices import torch_threads
from darla.errors import ConfigError, did_you_mean
from darla.plugins import blaming, import_plugin

if TYPE_CHECKING:
    from darla.vision.training import Pictures


@dataclass(frozen=True)
class OwnVision:
    """A vision of a user's own; see `register_vision`."""

    make: Callable[[int], nn.Module]
    train: Callable[[nn.Module, Pictures, int], object] | None = None


_VISIONS: dict[str, OwnVision] = {}


def register_vision(
    name: str,
    make: Callable[[int], nn.Module],
    train: Callable[[nn.Module, Pictures, int], object] | None = None,
) -> None:
    """Makes a vision known as perception `own-NAME`; again under the same name, replaces it.

    Args:
        name: Small letters, digits and hyphens.
        make: `make(size)` returns a module that maps pictures, uint8 [B, size, size, 3], to float
            [B, D]. It is called after torch was seeded with `vision.seed`. Policies see what it
            gives in evaluation mode, without gradients; values of about unit size suit them.
        train: `train(module, pictures, seed)` trains it in place. `pictures` are the training
            frames of D_U, on the module's device: `len(pictures)` is their number and
            `pictures[index]`, with int64 [B] on that device, gives uint8 [B, size, size, 3]. None
            leaves the module as it was made, for instance with weights from elsewhere.

    Raises:
        ConfigError: The name has other characters.
    """
    if not PERCEPTION_NAMES.allows(f"{OWN}{name}"):
        raise ConfigError(
            f"the vision is registered as '{name}'; a name has small letters, digits and hyphens"
        )
    _VISIONS[name] = OwnVision(make, train)


def get_vision(perception: str, config: Config) -> OwnVision:
    """Returns the vision of a perception `own-NAME`.

    Raises:
        ConfigError: There is no plugin, it fails when it is imported, or it has no such vision.
    """
    name, plugin = perception.removeprefix(OWN), config.environment.plugin
    if plugin is None:
        raise ConfigError(
            f"perception '{perception}' is a vision of your own: give environment.plugin=FILE.py, "
            f"a file that calls register_vision('{name}', ...)"
        )
    import_plugin(plugin)
    if name not in _VISIONS:
        there = f"there are {', '.join(_VISIONS)}" if _VISIONS else "there is none"
        raise ConfigError(
            f"environment.plugin '{plugin}' registers no vision '{name}'"
            f"{did_you_mean(name, _VISIONS)}; {there}"
        )
    return _VISIONS[name]


def make_own(perception: str, config: Config) -> nn.Module:
    """Returns the module of a perception as it is before training.

    It follows from `vision.seed` alone; the global generator stays as it was.

    Raises:
        ConfigError: As in `get_vision`, or the plugin fails to make it.
    """
    vision = get_vision(perception, config)
    with torch.random.fork_rng(devices=[]), _its_fault(perception, config, "is made"):
        torch.manual_seed(config.vision.seed)
        return vision.make(config.environment.size)


def _its_fault(perception: str, config: Config, done: str) -> AbstractContextManager[None]:
    what = f"perception '{perception}' of environment.plugin '{config.environment.plugin}'"
    return blaming(what, f"when it {done}")


def train_own(perception: str, config: Config, pictures: Pictures, *, quiet: bool) -> nn.Module:
    """Trains a vision of a user's own to its end.

    Args:
        perception: `own-NAME`.
        config: Whole configuration.
        pictures: Training frames of D_U.
        quiet: Say nothing.

    Returns:
        The module, on the device of the pictures.

    Raises:
        ConfigError: As in `make_own`, or the plugin fails to train it.
    """
    module = make_own(perception, config).to(pictures.device)
    train = get_vision(perception, config).train
    if train is not None:
        if not quiet:
            print(f"{perception}: learns on {len(pictures):,} pictures", file=sys.stderr)
        threads = torch_threads(os.cpu_count() or 1)
        with torch.random.fork_rng(devices=[]), threads, _its_fault(perception, config, "learns"):
            torch.manual_seed(config.vision.seed)
            train(module, pictures, config.vision.seed)
    return module


class OwnEncoder:
    """A frozen module as a function of pictures, for a `Perception`.

    It is pickled as the plugin's name and the weights, so that a process that gets it imports the
    plugin itself.

    Args:
        perception: `own-NAME`.
        config: Names the plugin.
        module: The trained module; put into evaluation mode, on the CPU.

    Attributes:
        width: Values D of an encoded picture.

    Raises:
        ConfigError: The module fails on pictures, or does not give float [B, D].
    """

    def __init__(self, perception: str, config: Config, module: nn.Module) -> None:
        self._perception, self._config = perception, config
        self._module = module.cpu().eval().requires_grad_(False)
        size = config.environment.size
        with _its_fault(perception, config, "encodes pictures"):
            encoded = self(torch.zeros((2, size, size, 3), dtype=torch.uint8))
        if encoded.ndim != 2 or len(encoded) != 2:
            raise ConfigError(
                f"perception '{perception}' makes {list(encoded.shape)} of two pictures; it must "
                "give [2, D], D values for each"
            )
        self.width = encoded.shape[1]

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Maps uint8 [B, H, W, 3] to float32 [B, D]."""
        with torch.inference_mode():
            return self._module(pictures).float()

    def __reduce__(self) -> tuple[Any, ...]:
        """Names what makes it again."""
        weights = save(self._module.state_dict())
        return _encoder_again, (self._perception, self._config, weights)


def _encoder_again(perception: str, config: Config, weights: bytes) -> OwnEncoder:
    module = make_own(perception, config)
    module.load_state_dict(load(weights))
    return OwnEncoder(perception, config, module)
