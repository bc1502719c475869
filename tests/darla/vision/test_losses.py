"""Noise, divergence and reconstruction terms, against torch.distributions and hand-made numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from darla.config import VAEConfig
from darla.vision.losses import (
    BernoulliReconstruction,
    CapacitySchedule,
    DAEReconstruction,
    GaussianReconstruction,
    PixelReconstruction,
    kl_divergence,
    occlusion_mask,
    sample,
    unnormalised_beta,
)
from darla.vision.networks import DAE, VAE
from darla.vision.pretrain import seed_weights
from darla.vision.training import (
    DAEObjective,
    VAEObjective,
    make_objective,
    make_reconstruction,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64, generator=generator(seed))


def test_kl_equals_torch_distributions() -> None:
    mean, log_variance = torch.randn(2, 5, 7, generator=generator())
    expected = reference_kl(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_sample_has_the_posterior_moments() -> None:
    mean, log_variance = torch.tensor([2.0]), torch.tensor([-1.0])
    draws = sample(mean, log_variance, torch.randn(200_000, 1, generator=generator()))
    assert draws.mean().item() == pytest.approx(2.0, abs=0.01)
    assert draws.var().log().item() == pytest.approx(-1.0, abs=0.02)


def test_occlusion_is_one_rectangle_with_uniform_corners() -> None:
    masks = occlusion_mask(4000, 64, 1.0, generator())
    assert masks.shape == (4000, 1, 64, 64) and masks.dtype == torch.bool
    rows, columns = masks[:, 0].any(2), masks[:, 0].any(1)
    assert (masks[:, 0] == rows[:, :, None] & columns[:, None]).all(), "not a rectangle"
    # Two uniform corners are a third of the side apart, in expectation.
    assert rows.sum(1).float().mean().item() == pytest.approx(64 / 3, rel=0.05)
    edges = (rows[:, 1:] != rows[:, :-1]).sum(1)
    assert edges.max() <= 2


def test_occlusion_share_leaves_the_others_whole() -> None:
    hidden = occlusion_mask(2000, 16, 0.25, generator()).flatten(1).any(1).float().mean().item()
    assert 0.18 < hidden < 0.27
    assert not occlusion_mask(50, 16, 0.0, generator()).any()


def test_pixel_term_is_summed_over_pixels_and_averaged_over_the_batch() -> None:
    target, guess = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert PixelReconstruction()(target, guess, guess, None).item() == pytest.approx(
        0.5 * 48 * 0.25
    )


@pytest.mark.parametrize("layer", ["output", "bottleneck"])
def test_dae_term_is_the_squared_distance_in_feature_space(layer: str) -> None:
    dae = DAE()
    target, guess = pictures(), pictures(seed=1)
    term = DAEReconstruction(dae, layer)(target, guess, torch.zeros_like(guess), None)
    with torch.no_grad():
        if layer == "output":
            distance = dae.logits(target) - dae.logits(guess)
        else:
            distance = dae.encode(target) - dae.encode(guess)
    assert term.item() == pytest.approx(distance.square().sum().item() / 3, rel=1e-5)
    assert DAEReconstruction(dae, layer)(target, target, guess, None).item() == 0.0
    known = DAEReconstruction(dae, layer).code(target)
    assert DAEReconstruction(dae, layer)(guess * 0, guess, guess, None, known) == term


def test_the_logits_are_before_the_non_linearity() -> None:
    dae = DAE()
    seed_weights(dae, 0, 0)
    assert dae.logits(pictures()).min() < 0
    torch.testing.assert_close(dae.logits(pictures()).sigmoid(), dae(pictures()))


def test_gradient_flows_through_the_guess_only_and_the_dae_stays_frozen() -> None:
    dae = DAE()
    term = DAEReconstruction(dae.train())
    assert not dae.training
    target, guess = pictures().requires_grad_(), pictures(seed=1).requires_grad_()
    term(target, guess, torch.zeros_like(guess), None).backward()
    assert guess.grad is not None and guess.grad.abs().sum() > 0
    assert target.grad is None
    assert all(p.grad is None and not p.requires_grad for p in dae.parameters())


def test_a_sampled_decoder_is_read_through_its_noise() -> None:
    dae = DAE()
    seed_weights(dae, 0, 0, he=True)  # with other weights its output hardly depends on its input
    term = DAEReconstruction(dae)
    target, mean = pictures(), pictures(seed=1)
    log_variance = torch.full_like(mean, -2.0)
    noise = torch.randn(mean.shape, generator=generator(2))
    expected = term(target, mean + noise * torch.e**-1, log_variance, None)
    assert expected > 1.1 * term(target, mean, log_variance, None)
    torch.testing.assert_close(term(target, mean, log_variance, noise), expected)


def test_the_pixel_weight_adds_a_pixel_term() -> None:
    dae = DAE()
    target, guess = pictures(), pictures(seed=1)
    plain, mixed = (
        DAEReconstruction(dae, "output", weight)(target, guess, guess, None)
        for weight in (0.0, 3.0)
    )
    pixel = PixelReconstruction()(target, guess, guess, None)
    torch.testing.assert_close(mixed - plain, 3 * pixel, rtol=1e-3, atol=1e-2)


def test_dae_objective_reads_the_occluded_picture_and_aims_at_the_clean_one() -> None:
    dae = DAE()
    objective, batch = DAEObjective(dae), pictures()
    hidden = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    hidden[:, :, 10:30, 5:40] = True
    loss, _ = objective.loss(batch, hidden)
    with torch.no_grad():
        seen = batch * ~hidden
        expected = (dae(seen) - batch).square().sum() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 20.0])
def test_vae_objective_weighs_the_kl_by_beta(beta: float) -> None:
    vae = VAE()
    objective, batch = VAEObjective(vae, PixelReconstruction(), beta), pictures()
    noise = objective.draw(3, 64, generator())
    loss, figures = objective.loss(batch, *noise)
    with torch.no_grad():
        mean, log_variance = vae.encode(batch)
        kl = kl_divergence(mean, log_variance).sum() / 3
        guess = vae.decode(mean + (0.5 * log_variance).exp() * noise[0])[0]
        error = 0.5 * (guess - batch).square().sum() / 3
    assert loss.item() == pytest.approx((error + beta * kl).item(), rel=1e-4)
    assert figures["kl"].item() == pytest.approx(kl.item(), rel=1e-4)


def test_log_variances_are_clamped() -> None:
    vae = VAE()
    with torch.no_grad():
        vae.posterior.bias.fill_(1e6)
    assert vae.encode(pictures())[1].max() <= 4.0


def test_the_bernoulli_term_is_torchs_cross_entropy_summed() -> None:
    logits = torch.randn(3, 1, 8, 8, generator=generator())
    target = (torch.rand(3, 1, 8, 8, generator=generator(1)) > 0.5).float()
    term = BernoulliReconstruction()(target, logits, torch.zeros_like(logits), None)
    expected = -torch.distributions.Bernoulli(logits=logits).log_prob(target).sum() / 3
    torch.testing.assert_close(term, expected)


def test_the_gaussian_term_is_the_likelihood_of_torch_distributions() -> None:
    target, mean = pictures(), pictures(seed=1)
    log_variance = torch.randn(target.shape, generator=generator(2))
    term = GaussianReconstruction()(target, mean, log_variance, None)
    expected = -Normal(mean, (0.5 * log_variance).exp()).log_prob(target).sum() / 3
    torch.testing.assert_close(term, expected)


def test_the_gaussian_term_with_unit_variance_is_the_pixel_term_and_a_constant() -> None:
    target, mean = pictures(), pictures(seed=1)
    unit = torch.zeros_like(target)
    constant = 0.5 * target[0].numel() * math.log(2 * math.pi)
    expected = PixelReconstruction()(target, mean, unit, None) + constant
    torch.testing.assert_close(GaussianReconstruction()(target, mean, unit, None), expected)


def test_capacity_rises_linearly_and_stays() -> None:
    schedule = CapacitySchedule(start=1.0, end=5.0, share=0.5)
    assert [schedule.at(p) for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 3.0, 5.0, 5.0]
    assert CapacitySchedule(0.0, 25.0, 0.0).at(0.0) == 25.0


def test_the_capacity_objective_is_gamma_times_the_distance_of_the_kl_from_c() -> None:
    vae, batch = VAE(), pictures()
    plain = VAEObjective(vae, PixelReconstruction(), 0.0)
    noise = plain.draw(3, 64, generator())
    reconstruction, figures = plain.loss(batch, *noise)
    kl = figures["kl"].item()
    for capacity in (kl, kl - 2.0, kl + 3.0):
        objective = VAEObjective(
            vae, PixelReconstruction(), 10.0, capacity=CapacitySchedule(0.0, 2 * capacity, 1.0)
        )
        noise = objective.draw(3, 64, generator(), 0.5)
        loss, figures = objective.loss(batch, *noise)
        assert figures["capacity"].item() == pytest.approx(capacity, rel=1e-5)
        expected = reconstruction.item() + 10 * abs(kl - capacity)
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_normalised_beta_of_one_weighs_a_latent_like_its_share_of_the_values() -> None:
    assert unnormalised_beta(1.0, 10, 4096) == pytest.approx(409.6)
    config = VAEConfig(objective="normalised", beta=0.5, reconstruction="pixel", latents=8)
    vae, batch = VAE(latents=8), pictures()
    objective = make_objective(config, vae, None, 3 * 64 * 64)
    loss, figures = objective.loss(batch, *objective.draw(3, 64, generator()))
    weight = 0.5 * 3 * 64 * 64 / 8
    expected = figures["reconstruction"].item() + weight * figures["kl"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("reconstruction", "strategy"),
    [
        ("pixel", PixelReconstruction),
        ("gaussian", GaussianReconstruction),
        ("bernoulli", BernoulliReconstruction),
    ],
)
def test_the_configuration_names_the_reconstruction(reconstruction: str, strategy: type) -> None:
    config = VAEConfig.model_validate({"reconstruction": reconstruction})
    assert isinstance(make_reconstruction(config, None), strategy)
    with pytest.raises(ValueError, match="needs a trained denoising autoencoder"):
        make_reconstruction(VAEConfig(), None)


def test_a_bernoulli_decoder_is_read_before_its_sigmoid() -> None:
    vae = VAE(latents=4, hidden=16, network="mlp", channels=1, variance=False)
    batch = (torch.rand(3, 1, 64, 64, generator=generator()) > 0.5).float()
    objective = VAEObjective(vae, BernoulliReconstruction(), 0.0)
    noise = objective.draw(3, 64, generator())
    loss, _ = objective.loss(batch, *noise)
    with torch.no_grad():
        mean, log_variance = vae.encode(batch)
        guess = vae.decode(sample(mean, log_variance, noise[0]))[0]
    expected = torch.nn.functional.binary_cross_entropy(guess, batch, reduction="sum") / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_rectangles_reach_every_edge():
    masks = occlusion_mask(2000, 16, 1.0, generator())[:, 0]
    for line in (masks.any(2), masks.any(1)):
        assert line[:, 0].any() and line[:, -1].any()


def test_the_pixel_term_is_of_the_mean_and_not_of_a_sample():
    dae, target, guess = DAE(), pictures(), pictures(seed=1)
    unit, noise = torch.zeros_like(guess), torch.randn(guess.shape, generator=generator(2))
    plain, mixed = (
        DAEReconstruction(dae, "output", w)(target, guess, unit, noise) for w in (0.0, 3.0)
    )
    pixel = PixelReconstruction()(target, guess, unit, None)
    torch.testing.assert_close(mixed - plain, 3 * pixel, rtol=1e-3, atol=1e-2)
