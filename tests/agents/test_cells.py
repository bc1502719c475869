import pytest

from agents.cells import Cell, cells_of, training_domains
from agents.seeding import derive, numpy_generator, torch_generator
from darla.config import AgentsConfig, Config
from darla.errors import ConfigError
from envs.registry import get_suite


def test_cells_are_every_combination_with_a_readable_id():
    agents = AgentsConfig(perceptions=("darla", "pixels"), seeds=(0, 1))
    cells = cells_of(Config(name="x", agents=agents))
    assert [cell.id for cell in cells] == [
        "dqn-darla-s0",
        "dqn-darla-s1",
        "dqn-pixels-s0",
        "dqn-pixels-s1",
    ]
    assert str(cells[0]) == "dqn-darla-s0"
    assert cells[0] == Cell("dqn", "darla", 0)


@pytest.mark.parametrize("perception", ["fine-tuned", "pixels+augmentation"])
def test_what_needs_gradients_is_refused_for_ec_before_anything_is_trained(perception):
    agents = AgentsConfig(algorithms=("ec",), perceptions=("darla", perception))
    with pytest.raises(ConfigError, match=rf"ec has no gradients.*'{perception[:4]}"):
        cells_of(Config(name="x", agents=agents))


def test_what_one_algorithm_cannot_do_is_left_out_where_another_can():
    agents = AgentsConfig(
        algorithms=("dqn", "ec", "unreal"), perceptions=("darla", "fine-tuned", "pixels")
    )
    assert [cell.id for cell in cells_of(Config(name="x", agents=agents))] == [
        *("dqn-darla-s0", "dqn-fine-tuned-s0", "dqn-pixels-s0"),
        *("ec-darla-s0", "ec-pixels-s0"),
        "unreal-pixels-s0",
    ]
    alone = AgentsConfig(algorithms=("dqn", "unreal"), perceptions=("darla",))
    with pytest.raises(ConfigError, match="unreal learns from frames, not on perception 'darla'"):
        cells_of(Config(name="x", agents=alone))


def test_a_cell_learns_in_d_s_and_with_domain_randomisation_in_d_u():
    suite = get_suite("lab")
    for perception in ("darla", "pixels", "pixels+augmentation", "fine-tuned"):
        assert training_domains(Cell("dqn", perception, 0), suite) == suite.d_s
    randomised = training_domains(Cell("dqn", "domain-randomisation", 0), suite)
    assert randomised == suite.d_u
    assert set(suite.d_t) <= set(randomised), "on this suite it is trained on the target"


def test_named_streams_differ_and_repeat():
    seeds = {derive(0, "a"), derive(0, "b"), derive(1, "a"), derive(0, "a", 1), derive(0, "a", 11)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive(0, "a") == 2372608467
    assert numpy_generator(0, "a").random() == numpy_generator(0, "a").random()
    assert torch_generator(0, "a").initial_seed() == derive(0, "a")
