import pickle

import numpy as np
import pytest
import torch

from agents.networks import QNetwork


def network(shape=(6,), seed=0):
    return QNetwork(shape, 5, (16, 8), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "observations"),
    [((6,), torch.zeros(3, 6)), ((64, 64, 3), torch.zeros(3, 64, 64, 3, dtype=torch.uint8))],
)
def test_values_have_one_column_per_action(shape, observations):
    values = network(shape)(observations)
    assert values.shape == (3, 5)
    assert values.dtype == torch.float32


def test_the_trunk_has_the_shape_of_the_visions_encoder():
    convolutions = [m for m in network((64, 64, 3)).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 32, 64, 64]
    assert {(c.kernel_size, c.stride) for c in convolutions} == {((4, 4), (2, 2))}


def test_frames_count_from_0_to_1():
    net = network((16, 16, 3))
    frames = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8)
    inner = net.layers[0].layers(frames.permute(0, 3, 1, 2).float() / 255)
    expected = net.layers[1:](inner)
    # bfloat16 keeps 8 bits: off by a factor of 255 would be off by far more.
    assert torch.allclose(net(frames), expected, atol=0.02)


def test_frames_too_small_for_the_trunk_are_refused():
    with pytest.raises(ValueError, match="at least 16 x 16"):
        network((8, 8, 3))


def test_parameters_and_gradients_are_views_of_two_vectors():
    net = network()
    net(torch.ones(1, 6)).sum().backward()
    size = sum(p.numel() for p in net.parameters())
    assert net.parameters_vector.numel() == net.gradient_vector.numel() == size
    assert torch.equal(net.gradient_vector, torch.cat([p.grad.flatten() for p in net.parameters()]))
    net.parameters_vector.zero_()
    assert net(torch.ones(1, 6)).abs().max() == 0


def test_initial_weights_follow_their_generator_and_touch_no_other():
    before = torch.get_rng_state()
    first, again, other = network(), network(), network(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.parameters_vector, again.parameters_vector)
    assert not torch.equal(first.parameters_vector, other.parameters_vector)
    weight = first.layers[0].weight
    assert weight.abs().max() <= 6**-0.5
    assert weight.std().item() == pytest.approx(6**-0.5 / 3**0.5, rel=0.2)


def test_a_copy_is_equal_and_still_a_view():
    net = network()
    copy = pickle.loads(pickle.dumps(net))
    x = torch.ones(1, 6)
    assert torch.equal(copy(x), net(x))
    copy.parameters_vector.zero_()
    assert copy(x).abs().max() == 0 and net(x).abs().max() > 0


def test_weights_of_another_network_are_refused():
    net = network()
    net.load_weights(net.weights())
    with pytest.raises(ValueError, match=r"\(3,\) parameters"):
        net.load_weights(np.zeros(3, np.float32))
