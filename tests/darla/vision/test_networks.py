"""Shapes and sizes of the networks, as in the paper's table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from darla.vision.networks import DAE, VAE
from tests.darla.vision.test_losses import pictures


def test_the_trunk_is_the_papers() -> None:
    convolutions = [m for m in DAE().trunk.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [32, 32, 64, 64]
    assert {(m.kernel_size, m.stride) for m in convolutions} == {((4, 4), (2, 2))}
    mirrored = [m for m in VAE().painter.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in mirrored] == [64, 32, 32, 6]


@pytest.mark.parametrize("size", [64, 84])
def test_shapes(size: int) -> None:
    pictures = torch.rand(2, 3, size, size)
    dae, vae = DAE(size, 100), VAE(size, 32, 256)
    assert dae.encode(pictures).shape == (2, 100)
    assert dae(pictures).shape == pictures.shape
    mean, log_variance = vae.encode(pictures)
    assert mean.shape == log_variance.shape == (2, 32)
    picture, spread = vae.decode(mean)
    assert picture.shape == spread.shape == pictures.shape
    assert 0 <= picture.min() and picture.max() <= 1


def test_a_warm_start_paints_like_the_autoencoder() -> None:
    dae, vae = DAE(), VAE()
    vae.start_from(dae)
    features = torch.randn(2, 64, 4, 4)
    mean, log_variance = vae.painter.paint(features).chunk(2, dim=1)
    torch.testing.assert_close(mean, dae.painter.paint(features))
    assert (log_variance == -4.0).all()
    pictures = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(vae.trunk(pictures), dae.trunk(pictures))


def test_the_network_of_1804_03599() -> None:
    vae = VAE(64, 10, 256, network="burgess", channels=1)
    convolutions = [m for m in vae.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [32, 32, 32, 32]
    assert [m.out_features for m in vae.hidden if isinstance(m, nn.Linear)] == [256, 256]
    assert vae.posterior.out_features == 20


def test_the_network_of_1606_05579() -> None:
    vae = VAE(64, 10, 1200, network="mlp", channels=1, variance=False)
    linear = [(m.in_features, m.out_features) for m in vae.modules() if isinstance(m, nn.Linear)]
    wide = (1200, 1200)
    assert linear == [(4096, 1200), wide, (1200, 20), (10, 1200), wide, wide, (1200, 4096)]
    assert [type(m) for m in vae.expand][1::2] == [nn.Tanh] * 3


@pytest.mark.parametrize("network", ["darla", "burgess", "mlp"])
@pytest.mark.parametrize("variance", [True, False])
def test_every_network_has_the_pictures_shape(network: str, variance: bool) -> None:
    vae = VAE(64, 5, 16, network=network, channels=1, variance=variance)
    pictures = torch.rand(2, 1, 64, 64)
    mean, _ = vae.encode(pictures)
    assert mean.shape == (2, 5)
    picture, log_variance = vae.decode(mean)
    assert picture.shape == log_variance.shape == pictures.shape
    assert 0 <= picture.min() and picture.max() <= 1
    assert bool(log_variance.any()) == variance


def test_the_decoders_log_variance_is_kept_inside_its_range():
    vae = VAE()
    for bias, edge in ((1e6, 4.0), (-1e6, -10.0)):
        with torch.no_grad():
            vae.painter.paint[-1].bias[3:] = bias
        assert (vae.decode(torch.zeros(2, 32))[1] == edge).all()


def test_the_posteriors_log_variance_is_kept_inside_its_range():
    vae = VAE()
    for bias, edge in ((1e6, 4.0), (-1e6, -10.0)):
        with torch.no_grad():
            vae.posterior.bias.fill_(bias)
        assert (vae.encode(pictures())[1] == edge).all()
