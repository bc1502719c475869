import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from darla.config import load_config
from darla.errors import ConfigError, DependencyError
from darla.jobs import CONFIG_FILE, PACKAGES, _stage, follow, pinned_requirements, submit
from darla.rundir import RunDirectory
from darla.storage import read_jsonl

ROOT = Path(__file__).parents[2]
YAML = """
name: tiny
environment: {size: 32}
ray: {workers: 2, envs_per_worker: 2, cpus_per_worker: 1.0}
frames: {count: 64, shard: 32, segment: 4}
vision:
  compile: "off"
  dae: {optimisation: {images: 32, batch: 16}}
  vae: {optimisation: {images: 32, batch: 16}}
agents:
  perceptions: [factors]
  decisions: 64
  chunk: 4
  evaluation_episodes: 2
  dqn: {warmup: 16, batch: 8, hidden: [8]}
transfer: {episodes: 3, random_policy: false}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    return path


def test_a_run_that_the_nodes_would_not_share_is_refused(config):
    with pytest.raises(ConfigError, match="runs is 'runs', .*: give runs=/FOLDER on storage"):
        submit(load_config(config), "http://127.0.0.1:1")


def test_all_paths_that_lead_nowhere_are_named_at_once(config):
    words = ["frames.policy=runs/lab-quick/dqn-darla-s0", "environment.plugin=../my_suite.py"]
    with pytest.raises(ConfigError, match=r"runs is .*; frames\.policy is .*; environment\.plugin"):
        submit(load_config(config, words), "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("frames.policy=runs/lab-quick/dqn-darla-s0", "give frames.policy=/FOLDER/RUN/CELL"),
        ("environment.plugin=../my_suite.py", "give a file below this folder, which is uploaded"),
    ],
)
def test_paths_that_lead_nowhere_in_a_job_are_refused(config, tmp_path, word, message):
    with pytest.raises(ConfigError, match=message):
        submit(load_config(config, [f"runs={tmp_path}", word]), "http://127.0.0.1:1")


def test_a_plugin_below_this_folder_is_uploaded(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin, folder = tmp_path / "suites/mine.py", tmp_path / "staged"
    plugin.parent.mkdir()
    plugin.write_text("# nothing\n")
    folder.mkdir()
    _stage(load_config(config, ["environment.plugin=suites/mine.py"]), folder)
    assert (folder / "suites/mine.py").read_text() == "# nothing\n"


class BrokenClient:
    """Stands for a dashboard that goes away while the log of a job is shown."""

    def __init__(self, address):
        """Answers at first."""

    async def tail_job_logs(self, job):
        yield "first line"
        raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")


def test_a_log_that_breaks_off_says_how_to_go_on(monkeypatch):
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", BrokenClient)
    shown = []
    with pytest.raises(DependencyError) as caught:
        follow("job-1", "http://head:8265", shown.append)
    assert shown == ["first line"]
    assert str(caught.value) == (
        "the log of job job-1 broke off, and the job may well go on (WebSocket connection closed "
        "unexpectedly with close code 1006); type: ray job logs --follow --address "
        "http://head:8265 job-1"
    )


def test_an_address_where_nobody_takes_jobs_is_one_line(config, tmp_path):
    tree = load_config(config, [f"runs={tmp_path}"])
    with pytest.raises(DependencyError) as caught:
        submit(tree, "http://127.0.0.1:1")
    assert str(caught.value) == (
        "no Ray takes jobs at http://127.0.0.1:1: Failed to connect to Ray at address: "
        "http://127.0.0.1:1."
    )
    with pytest.raises(ConfigError, match="'head' is no URL of a dashboard; give --address http"):
        submit(tree, "head")


def test_what_is_uploaded_runs_by_itself_and_holds_the_resolved_configuration(config, tmp_path):
    tree = load_config(config, ["vision.vae.beta=3"])
    folder = tmp_path / "staged"
    folder.mkdir()
    _stage(tree, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PACKAGES, CONFIG_FILE])
    assert load_config(folder / CONFIG_FILE) == tree
    code = "import darla, json; from darla.config import load_config; print(darla.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "darla/__init__.py")


def test_the_nodes_are_given_the_versions_of_this_machine():
    pins = pinned_requirements()
    assert "ray[default,rllib]==2.60.0" in pins and "gymnasium==1.2.2" in pins
    assert all("+" not in pin for pin in pins) and not any("pytest" in pin for pin in pins)


@pytest.fixture
def dashboard(monkeypatch):
    """Two nodes of one CPU each, so that two workers that reserve one each need both."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    # Ray gives nodes the address of the session that other tests of this process may have open.
    monkeypatch.setattr(ray._private.worker, "_global_node", None)
    node = {"num_cpus": 1, "object_store_memory": 100 * 1024 * 1024}
    cluster, apart = Cluster(), tempfile.mkdtemp()
    try:
        head = {"include_dashboard": True, "dashboard_port": 0, "dashboard_agent_listen_port": 0}
        cluster.add_node(**node, **head)
        # In one folder, one node would delete what the other still runs.
        cluster.add_node(**node, temp_dir=apart)
        yield f"http://{cluster.webui_url}"
    finally:
        cluster.shutdown()
        shutil.rmtree(apart)


@pytest.mark.timeout(300)
def test_a_job_trains_on_both_nodes_and_ends_with_the_status_of_the_run(
    config, dashboard, tmp_path
):
    words = [str(config), f"runs={tmp_path}", "--address", dashboard, "--json"]

    def darla(*more):
        command = [sys.executable, "-m", "darla.cli", "submit", *words, *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = darla()
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["run"] == str(tmp_path / "tiny") and answer["job"] in answer["follow"]
    run = RunDirectory.load(tmp_path / "tiny")
    rows = read_jsonl(run.scores)
    assert [row["split"] for row in rows].count("target") == 3 and len(rows) == 6
    assert run.report.exists()
    refused = darla("vision.vae.beta=3")
    assert refused.returncode == 2
    assert (
        "darla: run directory" in refused.stderr and "vision.vae.beta 1.0 -> 3.0" in refused.stderr
    )
