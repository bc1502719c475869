"""The examples of docs/ run as they are, on a run directory whose vision is untrained."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from darla.storage import read_json
from tests.agents.toy_latents import toy_run

ROOT = Path(__file__).parent.parent
WORLD = "docs/examples/miniworld.yaml"
TINY = (
    "frames.count=160 frames.shard=160 frames.validation=0.25 "
    "vision.dae.optimisation.images=100 vision.vae.optimisation.images=100 "
    "agents.perceptions=[darla] agents.decisions=200 agents.evaluate_every=200 "
    "agents.evaluation_episodes=2 agents.dqn.warmup=100 agents.dqn.batch=16 "
    "ray.workers=1 ray.envs_per_worker=2 transfer.episodes=2"
).split()

#: Not `importorskip`: an import without a display needs the headless mode that the example chooses.
needs_miniworld = pytest.mark.skipif(
    importlib.util.find_spec("miniworld") is None, reason="miniworld is not installed"
)


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def example(name: str, *words: str) -> str:
    return succeeded(python(ROOT / "docs" / "examples" / name, *words))


def test_stable_baselines_ppo_learns_on_the_vision_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    assert "total_timesteps" in example("sb3_ppo.py", str(toy_run(tmp_path)), "1000")


def test_rllib_ppo_learns_on_the_vision_of_a_run(tmp_path: Path) -> None:
    out = example("rllib_ppo.py", str(toy_run(tmp_path)), "1")
    assert "no episode has ended yet" in out


def test_a_vision_of_ones_own_is_scored_as_its_page_says(tmp_path: Path) -> None:
    page, file = ROOT / "docs" / "your_own_vision.md", "docs/examples/contrastive.py"
    assert f"```python\n{(ROOT / file).read_text()}```" in page.read_text()
    words = f"environment.plugin={file} agents.perceptions=[darla,own-contrastive]"
    assert f"darla run lab-smoke {words} name=mine" in page.read_text()

    words = f"environment.plugin={file} agents.perceptions=[own-contrastive]"
    command = ["-m", "darla.cli", "run", "lab-smoke", *TINY, *words.split(), f"runs={tmp_path}"]
    succeeded(python(*command, "name=mine"))
    run = tmp_path / "mine"
    assert [path.name for path in (run / "vision").glob("*.safetensors")] == [
        "own-contrastive.safetensors"
    ]
    assert "room" in read_json(run / "vision" / "report.json")["own"]["own-contrastive"]["probe"]
    assert '"perception": "own-contrastive"' in (run / "scores.jsonl").read_text()
    card = (run / "MODEL_CARD.md").read_text()
    assert f"`own-contrastive`: registered by {file}" in card and "autoencoder" not in card


@needs_miniworld
def test_miniworld_goes_through_the_three_stages_as_its_page_says(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "your_own_domain.md").read_text()
    assert f"```python\n{(ROOT / 'docs/examples/miniworld_rooms.py').read_text()}```" in page
    assert f"darla domains {WORLD} -o sheet.png" in page and f"darla run {WORLD}\n" in page

    sheet = tmp_path / "sheet.png"
    out = succeeded(python("-m", "darla.cli", "domains", WORLD, "-o", sheet))
    assert "miniworld/wood/red            vision, target, policy-ood" in out
    with Image.open(sheet) as picture:
        assert picture.height > 5 * 128

    succeeded(python("-m", "darla.cli", "run", WORLD, f"runs={tmp_path}", *TINY))
    run = tmp_path / "miniworld"
    frames = read_json(run / "frames" / "index.json")
    assert len(frames["domains"]) == 4 and "object_in_view" not in frames
    assert "walls" in read_json(run / "vision" / "report.json")["probe"]
    scores = (run / "scores.jsonl").read_text()
    assert "miniworld/wood/red/light=0.3" in scores and "random-policy" in scores
    assert "miniworld/wood/red" in (run / "report.html").read_text()
    assert (run / "domains.png").exists()


@needs_miniworld
def test_the_ceiling_is_refused_where_there_is_no_ground_truth(tmp_path: Path) -> None:
    words = "run", WORLD, f"runs={tmp_path}", "agents.perceptions=[darla,factors]"
    done = python("-m", "darla.cli", *words)
    assert done.returncode == 2
    assert "'factors' reads the ground truth, which 'miniworld/Room-v0' does not" in done.stderr
    assert not list(tmp_path.iterdir())
