import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text

from agents.policy import Actions
from darla.errors import ConfigError


def test_spaces_are_described_by_their_choices():
    assert Actions.of(Discrete(8)) == Actions((8,))
    joints = Actions.of(MultiDiscrete([5] * 9))
    assert joints == Actions((5,) * 9, vector=True)


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), Discrete(3, start=1), Text(3)])
def test_other_spaces_are_refused(space):
    with pytest.raises(ConfigError, match="the algorithms here take Discrete and MultiDiscrete"):
        Actions.of(space)


def test_random_actions_cover_every_choice():
    rng = np.random.default_rng(0)
    single = Actions((3,)).sample(rng, 200)
    assert single.shape == (200,) and set(single) == {0, 1, 2}
    joint = Actions((2, 4), vector=True).sample(rng, 200)
    assert joint.shape == (200, 2) and joint.dtype == np.int64
    assert set(joint[:, 0]) == {0, 1} and set(joint[:, 1]) == {0, 1, 2, 3}


def test_an_algorithm_of_one_choice_refuses_several():
    assert Actions((8,)).count("dqn") == 8
    with pytest.raises(ConfigError, match="dqn makes one choice.*for 9 choices at once.*a3c"):
        Actions((5,) * 9, vector=True).count("dqn")


def test_a_vector_of_one_choice_says_what_to_wrap():
    with pytest.raises(ConfigError, match=r"for a vector of one; let it take Discrete\(5\), or"):
        Actions((5,), vector=True).count("dqn")
