import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.acting import spread
from agents.algorithms import load_policy
from agents.cells import perception_of
from agents.worker import Worker
from benchmarks.episodes import (
    Outcome,
    Recording,
    load_recording,
    record,
    recording_path,
    save_recording,
)
from benchmarks.scores import Score
from darla.errors import CorruptFileError, DomainError, MissingFileError, RunDirectoryError
from darla.rundir import RunDirectory
from darla.vision.evaluation import to_float
from darla.vision.pretrain import load_model, make_dae, make_vae
from envs import registry
from tests.benchmarks.toy_replay import CELLS, SUITE, made_up, make_catch, toy_run
from tests.toys import ROWS, Catch

FACTORS, DARLA, A3C = CELLS


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.setattr(registry, "_SIMULATORS", dict(registry.simulators()))
    return toy_run(tmp_path)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_recording_is_the_episode_that_was_scored(run: RunDirectory, cell) -> None:
    policy, perception = load_policy(run, cell), perception_of(run, cell.perception, 0)
    (domain,), transfer = SUITE.d_t, run.config.transfer

    def factory(domains, count, *, seed, render):
        return make_catch(count, domains, size=16, frame_skip=1, seed=seed, render=render)

    worker = Worker(factory)
    scored = [
        episode
        for seed, quota in spread(14, 2, 2, transfer.seed)
        for episode in worker.evaluate(
            policy, perception, [([domain], quota, seed)], epsilon=transfer.epsilon
        )[0]
    ]
    assert {episode.return_ for episode in scored} == {-1.0, 1.0}
    for number, episode in enumerate(scored):
        facts = record(run, SUITE, cell, domain, number, scores=[]).facts
        assert facts.outcome == Outcome(return_=episode.return_, length=episode.length)
        assert facts.layout_seed == (episode.seed, episode.env, episode.episode)


def test_the_arrays_belong_to_the_same_decisions(run: RunDirectory) -> None:
    recording = record(run, SUITE, FACTORS, SUITE.d_t[0], 5, scores=[])
    facts, arrays = recording.facts, recording.arrays
    assert facts.outcome.length == ROWS - 1 == len(arrays["frames"])
    seed, env, number = facts.layout_seed
    assert number > 0
    vector = Catch(SUITE.d_t, env + 1, seed=seed)
    vector.reset(seed=seed)
    for _ in range(number * (ROWS - 1)):
        frames, *_, info = vector.step(np.ones(env + 1, int))
    for t in range(ROWS - 1):
        assert np.array_equal(arrays["frames"][t], frames[env])
        assert np.array_equal(arrays["latents"][t], info["state"][env])
        actions = np.ones(env + 1, int)
        actions[env] = arrays["actions"][t, 0]
        frames, rewards, *_, info = vector.step(actions)
        assert arrays["rewards"][t] == rewards[env]
    assert np.array_equal(arrays["returns"], arrays["rewards"].cumsum())
    assert arrays["returns"][-1] == facts.outcome.return_
    with torch.no_grad():
        network = load_policy(run, FACTORS).network  # type: ignore[attr-defined]
        values = network(torch.from_numpy(arrays["latents"])).numpy()
    assert np.allclose(arrays["preferences"], values, atol=1e-6)
    assert "reconstructions" not in arrays
    assert (facts.options, facts.choices, facts.fps) == (("0", "1", "2"), (3,), None)


def test_darla_paints_what_its_dae_reads_in_the_vae(run: RunDirectory) -> None:
    arrays = record(run, SUITE, DARLA, SUITE.d_s[0], 0, scores=[]).arrays
    dae, vae = make_dae(run.config), make_vae(run.config)
    load_model(dae, run.vision / "dae.safetensors")
    load_model(vae, run.vision / "vision.safetensors")
    pictures = to_float(torch.from_numpy(arrays["frames"]))
    expected = (dae(vae(pictures)) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(arrays["reconstructions"] - expected).max() < 2
    assert arrays["latents"].shape == (ROWS - 1, run.config.vision.vae.latents)


def test_probabilities_are_those_of_a_policy_with_a_memory(run: RunDirectory) -> None:
    recording = record(run, SUITE, A3C, SUITE.d_t[0], 2, scores=[])
    assert recording.facts.preference == "probability"
    policy = load_policy(run, A3C)
    memory = policy.start(1)
    for t, latents in enumerate(recording.arrays["latents"]):
        expected = policy.preferences(latents[None], memory)[0]
        assert np.allclose(recording.arrays["preferences"][t], expected, atol=1e-6)
        _, memory = policy.choose(latents[None], memory, np.random.default_rng(0))
    assert memory.any()


def test_a_recording_says_what_the_table_says(run: RunDirectory) -> None:
    domain = SUITE.d_t[0]
    names = {"suite": "catch", "domain": domain.id, "tags": ("target",), "split": "target"}
    cell = {"algorithm": "dqn", "perception": "factors", "seed": 0, "episode": 1}
    layout_seed = record(run, SUITE, FACTORS, domain, 1, scores=[]).facts.layout_seed
    numbers = {"layout_seed": layout_seed, "value": 0.5, "length": 9, "decisions": 1, "frames": 1}
    scores = [Score(**names, **cell, **numbers)]  # type: ignore[arg-type]
    facts = record(run, SUITE, FACTORS, domain, 1, scores=scores).facts
    assert facts.scored == Outcome(return_=0.5, length=9) != facts.outcome
    assert record(run, SUITE, FACTORS, domain, 0, scores=scores).facts.scored is None
    for change in ({"tags": ("target", "unfinished")}, {"layout_seed": (1, 0, 0)}, {"suite": "x"}):
        others = [dataclasses.replace(scores[0], **change)]
        assert record(run, SUITE, FACTORS, domain, 1, scores=others).facts.scored is None
    other = record(run, SUITE, FACTORS, domain, 1, scores=scores, seed=3).facts
    assert other.scored is None and other.layout_seed[0] != facts.layout_seed[0]
    folder = run.path / "replay" / "dqn-factors-s0"
    assert recording_path(run, facts) == folder / "catch-pink-e1.json"
    assert recording_path(run, other) == folder / "catch-pink-seed3-e1.json"
    protocol = facts.model_copy(update={"suite": "shifts@v1"})
    assert recording_path(run, protocol) == folder / "catch-pink-shifts-v1-e1.json"


def test_an_episode_that_is_not_scored_is_refused(run: RunDirectory) -> None:
    with pytest.raises(DomainError, match=r"no episode 14 in 'catch/pink', .* from 0 to 13"):
        record(run, SUITE, FACTORS, SUITE.d_t[0], 14, scores=[])
    with pytest.raises(DomainError, match="from 0 to 6"):
        record(run, SUITE, FACTORS, SUITE.d_s[0], 7, scores=[])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "replay" / "lab-A-light=0.5-e3.json"
    save_recording(path, made_up(length=20))
    return path


def test_what_was_saved_is_read(saved: Path) -> None:
    before, after = made_up(length=20), load_recording(saved)
    assert after.facts == before.facts.model_copy(update={"sha256": after.facts.sha256})
    assert after.arrays.keys() == before.arrays.keys()
    for name, array in before.arrays.items():
        assert after.arrays[name].dtype == array.dtype
        assert np.array_equal(after.arrays[name], array)
    assert sorted(file.name for file in saved.parent.iterdir()) == [
        "lab-A-light=0.5-e3.json",
        "lab-A-light=0.5-e3.npz",
    ]
    with np.load(saved.with_suffix(".npz"), allow_pickle=False) as file:
        assert file["frames"].shape == (20, 64, 64, 3)
    assert json.loads(saved.read_text())["outcome"] == {"return": 0.0, "length": 20}


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_truncated_arrays_are_named(saved: Path, cut: int) -> None:
    file = saved.with_suffix(".npz")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(CorruptFileError, match=r"e3\.npz' is truncated, or not the one of"):
        load_recording(saved)


def test_files_that_are_not_there_or_something_else_are_named(saved: Path) -> None:
    text = saved.read_text()
    saved.write_text(text[:50])
    with pytest.raises(CorruptFileError, match=r"e3\.json' is not valid JSON"):
        load_recording(saved)
    saved.write_text("{}")
    with pytest.raises(CorruptFileError, match="is no recorded episode"):
        load_recording(saved)
    saved.write_text(text)
    saved.with_suffix(".npz").unlink()
    with pytest.raises(MissingFileError, match=r"e3\.npz"):
        load_recording(saved)
    with pytest.raises(MissingFileError, match=r"absent\.json"):
        load_recording(saved.with_name("absent.json"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"version": 2}, RunDirectoryError, "version 2 of the format, newer than the 1"),
        ({"length": 3}, CorruptFileError, "'length': extra inputs"),
        ({"options": None}, CorruptFileError, "'options'"),
        ({"outcome": {"return": "x", "length": 20}}, CorruptFileError, "'outcome.return'"),
        ({"outcome": {"return": 0.0, "length": 19}}, CorruptFileError, "20 steps, the episode 19"),
        ({"options": ["a"]}, CorruptFileError, "'preferences' has 8 options, the episode 1"),
    ],
)
def test_facts_that_do_not_fit_are_named(saved: Path, change, error, message) -> None:
    saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
    with pytest.raises(error, match=message):
        load_recording(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.zeros(20, np.float32)}, "'rewards' is float32 .*, not float64 of 1-d"),
        ({"latents": np.zeros((20, 2, 2), np.float32)}, "'latents' is float32 .*, not .* of 2-d"),
        ({"actions": np.zeros((19, 1), np.int64)}, "'actions' has 19 steps, the episode 20"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path: Path, change, message) -> None:
    recording = made_up(length=20)
    path = tmp_path / "e.json"
    save_recording(path, Recording(recording.facts, {**recording.arrays, **change}))
    with pytest.raises(CorruptFileError, match=message):
        load_recording(path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    recording = made_up(length=20)
    arrays = {name: array for name, array in recording.arrays.items() if name != "returns"}
    save_recording(tmp_path / "e.json", Recording(recording.facts, arrays))
    with pytest.raises(CorruptFileError, match="returns are missing"):
        load_recording(tmp_path / "e.json")
