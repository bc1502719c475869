import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from agents import a3c, dqn
from agents.a3c import GradientDigest
from agents.actor_critic import ActorCritic
from agents.augmentation import GREY, augment, convolve, recolour
from agents.dqn import Learner
from agents.replay import Replay, Steps
from agents.worker import Rollout
from darla.config import A3CConfig, AugmentationConfig, DQNConfig

NOTHING = AugmentationConfig(convolution=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
SHAPE = (16, 16, 3)


def frames(count=6, seed=0):
    drawn = np.random.default_rng(seed).integers(256, size=(count, *SHAPE), dtype=np.uint8)
    return torch.from_numpy(drawn)


def pictures(count=3, low=0.0, high=1.0):
    generator = torch.Generator().manual_seed(0)
    return low + (high - low) * torch.rand(count, 3, 8, 6, generator=generator)


def kernels(*places):
    """For each picture a kernel with a single 1, at (output, input, row, column)."""
    made = torch.zeros(len(places), 3, 3, 3, 3)
    for kernel, ones in zip(made, places, strict=True):
        for place in ones:
            kernel[place] = 1.0
    return made


def test_every_picture_has_its_own_kernel_and_its_own_border():
    same = [(channel, channel, 1, 1) for channel in range(3)]
    right = [(channel, channel, 1, 0) for channel in range(3)]
    swapped = [(0, 2, 1, 1), (1, 1, 1, 1), (2, 0, 1, 1)]
    given = pictures()
    first, second, third = convolve(given, kernels(same, right, swapped))
    assert torch.equal(first, given[0])
    assert torch.equal(second[:, :, 1:], given[1, :, :, :-1])
    assert torch.equal(second[:, :, 0], given[1, :, :, 0])
    assert torch.equal(third, given[2].flip(0))


def test_a_convolution_is_that_of_torch():
    given, weights = pictures(), torch.randn(3, 3, 3, 3, 3)
    padded = torch.nn.functional.pad(given, [1] * 4, mode="replicate")
    for i, picture in enumerate(convolve(given, weights)):
        expected = torch.nn.functional.conv2d(padded[i : i + 1], weights[i])[0]
        torch.testing.assert_close(picture, expected, atol=1e-5, rtol=1e-5)


def changed(given, **amounts):
    names = ("brightness", "contrast", "saturation", "hue")
    return recolour(given, *(torch.full((len(given),), amounts.get(name, 0.0)) for name in names))


def luma(given):
    return torch.einsum("c,bchw->bhw", torch.tensor(GREY), given)[:, None]


def test_colours_change_by_the_amounts_given():
    given = pictures(low=0.3, high=0.6)
    close = {"atol": 2e-3, "rtol": 0.0}  # YIQ is defined with four digits
    torch.testing.assert_close(changed(given), given, **close)
    torch.testing.assert_close(changed(given, brightness=0.5), 1.5 * given, **close)
    grey = luma(given).expand_as(given)
    torch.testing.assert_close(changed(given, saturation=-1.0), grey, **close)
    torch.testing.assert_close(changed(given, saturation=0.4), 1.4 * given - 0.4 * grey, **close)
    mean = luma(given).mean((2, 3), keepdim=True).expand_as(given)
    torch.testing.assert_close(changed(given, contrast=-1.0), mean, **close)
    torch.testing.assert_close(changed(given, contrast=0.4), 1.4 * given - 0.4 * mean, **close)
    torch.testing.assert_close(changed(given, brightness=0.5, contrast=-1.0), 1.5 * mean, **close)


def test_a_hue_turns_in_a_circle_and_keeps_greys():
    given = pictures(low=0.4, high=0.6)
    close = {"atol": 4e-3, "rtol": 0.0}
    torch.testing.assert_close(changed(given, hue=1.0), given, **close)
    torch.testing.assert_close(changed(changed(given, hue=0.2), hue=-0.2), given, **close)
    torch.testing.assert_close(changed(given, hue=0.5), 2 * luma(given) - given, **close)
    torch.testing.assert_close(luma(changed(given, hue=0.3)), luma(given), **close)
    grey = luma(given).expand_as(given)
    torch.testing.assert_close(changed(grey, hue=0.3), grey, **close)


def test_colours_stay_colours():
    given = pictures()
    for amount in (-1.0, 1.0):
        extreme = changed(given, brightness=amount, contrast=amount, saturation=amount, hue=0.2)
        assert extreme.min() >= 0.0 and extreme.max() <= 1.0


def test_frames_are_drawn_one_by_one():
    same = frames(1).expand(200, -1, -1, -1)
    drawn = augment(same, AugmentationConfig(convolution=0.25), np.random.default_rng(0))
    assert drawn.shape == same.shape and drawn.dtype == torch.uint8
    assert len(drawn.flatten(1).unique(dim=0)) == 200
    everything = augment(same, AugmentationConfig(convolution=1.0), np.random.default_rng(0))
    share = (drawn == everything).flatten(1).all(1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.1)


def test_no_change_is_no_change():
    given = frames()
    off = (augment(given, NOTHING, np.random.default_rng(0)).int() - given.int()).abs().max()
    assert off <= 1


def test_only_the_generator_given_is_used():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = [augment(frames(), AugmentationConfig(), np.random.default_rng(s)) for s in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_the_generator_advances_equally_whatever_the_settings_are():
    states = []
    for config in (NOTHING, AugmentationConfig()):
        rng = np.random.default_rng(0)
        augment(frames(), config, rng)
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]


# -- DQN: SVEA -------------------------------------------------------------------------------------


def filled_replay():
    rng = np.random.default_rng(0)
    replay = Replay(200, 4, SHAPE, np.uint8, n_step=1, discount=0.9)
    rewards = (rng.standard_normal((40, 4)) * 3).astype(np.float32)
    never = np.zeros((40, 4), bool)
    observations = rng.integers(256, size=(40, 4, *SHAPE), dtype=np.uint8)
    actions = rng.integers(3, size=(40, 4))
    replay.insert(Steps(observations, actions, rewards, never, never, observations[0, :0]))
    return replay


def test_dqn_learns_clean_targets_on_clean_and_on_augmented_frames(monkeypatch):
    config = DQNConfig(hidden=(8,), batch=8, gradient_norm=None)
    ours = Learner(SHAPE, 3, config, 0, augmentation=NOTHING)
    batch = filled_replay().sample(8, np.random.default_rng(1))
    changed = frames(8, seed=2)
    monkeypatch.setattr(dqn, "augment", lambda *_: changed)
    with torch.no_grad():
        q_t = ours.target(batch.s_t)
        best = ours.online(batch.s_t).argmax(1)
        goal = batch.r_t + batch.discount_t * q_t[torch.arange(8), best]
    losses = [
        torch.nn.functional.huber_loss(ours.online(s)[torch.arange(8), batch.a_tm1], goal)
        for s in (batch.s_tm1, changed)
    ]
    loss = 0.5 * losses[0] + 0.5 * losses[1]
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, list(ours.online.parameters()))]
    )
    sums = torch.zeros(2)
    ours._update(batch, q_t, sums)
    torch.testing.assert_close(ours.online.gradient_vector, expected, atol=1e-4, rtol=1e-2)
    assert sums[0].item() == pytest.approx(loss.item(), rel=1e-3)


# -- A3C: DrAC -------------------------------------------------------------------------------------


def rollout():
    rng = np.random.default_rng(3)
    steps = Steps(
        rng.integers(256, size=(4, 2, *SHAPE), dtype=np.uint8),
        rng.integers(3, size=(4, 2)),
        rng.standard_normal((4, 2)).astype(np.float32),
        np.zeros((4, 2), bool),
        np.zeros((4, 2), bool),
        np.zeros((0, *SHAPE), np.uint8),
    )
    nothing = np.zeros((2, 0), np.float32)
    return Rollout(steps, nothing, frames(2, seed=4).numpy())


def gradient(network, loss):
    network.gradient_vector.zero_()
    loss.backward()
    return network.gradient_vector.clone()


def test_a3c_draws_policy_and_value_on_augmented_frames_to_what_they_were(monkeypatch):
    monkeypatch.setattr("agents.networks.choose_precision", lambda *_: torch.float32)
    network = ActorCritic(SHAPE, (3,), (8,), 0, torch.Generator().manual_seed(0))
    network.parameters_vector.mul_(4.0)  # so that looks make a difference
    changed = frames(8, seed=5) // 2
    monkeypatch.setattr(a3c, "augment", lambda *_: changed)
    rng, played = np.random.default_rng(0), rollout()
    plain, _ = GradientDigest(A3CConfig()).loss(network, played, rng)
    without = gradient(network, plain)
    loss, figures = GradientDigest(A3CConfig(), 0.0, NOTHING, 0.3).loss(network, played, rng)
    added = gradient(network, loss) - without

    (clean,), value = network.judge(
        network.layers(torch.from_numpy(played.steps.observations).flatten(0, 1))
    )
    (other,), other_value = network.judge(network.layers(changed))
    divergence = kl_divergence(Categorical(logits=clean.detach()), Categorical(logits=other))
    shift = (divergence + (value.detach() - other_value) ** 2).mean()
    assert figures["augmentation_loss"] == pytest.approx(shift.item(), rel=1e-3)
    torch.testing.assert_close(added, gradient(network, 0.3 * shift), atol=1e-6, rtol=1e-3)
