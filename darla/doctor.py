"""What of this machine is needed, what is there, and what to do about the rest.

Whatever can end a process (OpenGL drivers, Ray) is tried in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from darla.errors import DependencyError

GL_PACKAGES = "libegl1 libopengl0 libgl1-mesa-dri"
"""Debian's packages for off-screen OpenGL without a GPU."""

NEEDED = (
    "dm-control",
    "gymnasium",
    "Jinja2",
    "matplotlib",
    "mujoco",
    "numpy",
    "pillow",
    "pydantic",
    "PyYAML",
    "ray",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "typer",
)
"""Distributions without which some command does not work."""

FREE_GIB = 24.0
"""Free space on the disk under which `lab.yaml` is refused (`pipeline.check_room`)."""

_RENDER = """
import os
os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco
from OpenGL import GL
world = "<worldbody><light pos='0 0 3'/><geom type='sphere' size='1' rgba='1 0 0 1'/></worldbody>"
model = mujoco.MjModel.from_xml_string(f"<mujoco>{world}</mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    if renderer.render().max() == 0:
        raise SystemExit("the frame is black")
    print(os.environ["MUJOCO_GL"], GL.glGetString(GL.GL_RENDERER).decode(), sep=", ")
"""

_RAY = """
import ray
from darla.cluster import ray_session
from darla.config import RayConfig
with ray_session(RayConfig(workers=1)):
    assert ray.get(ray.remote(lambda: 42).remote()) == 42
print("starts, answers and stops on this machine")
"""


@dataclass(frozen=True)
class Check:
    """The outcome of one look at the machine.

    Attributes:
        name: What was looked at.
        state: `ok`; `warning`: slower or untested; `broken`: some command will fail.
        found: What is there.
        remedy: What to do about it; empty when it is ok.
    """

    name: str
    state: Literal["ok", "warning", "broken"]
    found: str
    remedy: str = ""


def diagnose() -> list[Check]:
    """Looks at everything; takes about ten seconds, most of them to start and stop Ray."""
    checks: tuple[Callable[[], Check], ...] = (
        check_packages,
        check_gl,
        check_deepmind_lab,
        check_torch,
        check_compiler,
        check_ray,
        check_cores,
        check_disk,
    )
    return [check() for check in checks]


def check_packages(constraints: Path | None = None) -> Check:
    """Compares what is installed with what is needed and with the versions that were tested.

    Args:
        constraints: File of `name==version` lines; None takes the project's own where it is there.
    """
    if constraints is None:
        constraints = Path(__file__).resolve().parent.parent / "constraints.txt"
    tested = _pins(constraints) if constraints.is_file() else {}
    missing, other = [], []
    for name in NEEDED:
        try:
            version = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        pin = tested.get(_canonical(name))
        if pin not in (None, version):
            other.append(f"{name} {version} (tested: {pin})")
    if missing:
        remedy = "`make install`, or pip install " + " ".join(missing)
        return Check("packages", "broken", f"missing: {', '.join(missing)}", remedy)
    if int(metadata.version("mujoco").partition(".")[0]) >= 4:
        found = f"mujoco {metadata.version('mujoco')}, on which dm_control breaks"
        return Check("packages", "broken", found, "pip install 'mujoco<4'")
    if other:
        return Check("packages", "warning", ", ".join(other), "`make install` takes those tested")
    suffix = " as tested" if tested else ""
    return Check("packages", "ok", f"all {len(NEEDED)}{suffix}, Python {platform.python_version()}")


def check_gl() -> Check:
    """Renders one small frame off screen."""
    passed, said = _try(_RENDER)
    if passed:
        return Check("OpenGL", "ok", said)
    remedy = f"apt-get install {GL_PACKAGES} (with root's rights), and leave MUJOCO_GL unset"
    return Check("OpenGL", "broken", f"no frame could be rendered: {said}", remedy)


def require_gl() -> None:
    """Raises DependencyError, with the packages to install, where no frame can be rendered."""
    found = check_gl()
    if found.state == "broken":
        raise DependencyError(f"{found.found}; {found.remedy}")


def check_deepmind_lab() -> Check:
    """Looks for DeepMind Lab, which one environment needs and nothing else."""
    if importlib.util.find_spec("deepmind_lab"):
        return Check("dmlab", "ok", "installed")
    return Check("dmlab", "ok", "not installed; only environment.id=darla/DeepMindLab-v0 needs it")


def check_torch() -> Check:
    """Looks for torch, its devices, and the device and precision that vision takes by itself."""
    try:
        import torch

        from darla.devices import choose_device, choose_precision
    except (ImportError, OSError) as error:
        return Check("torch", "broken", str(error), "`make install`")
    devices = ["cpu"]
    devices += [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    device = choose_device("auto")
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    found = f"{torch.__version__}, devices: {', '.join(devices)}; vision: {device}, {precision}"
    return Check("torch", "ok", found)


def check_compiler() -> Check:
    """Looks for the C++ compiler that torch.compile needs."""
    found = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    if found:
        return Check("compiler", "ok", found)
    remedy = "apt-get install g++ lets vision train faster"
    return Check("compiler", "warning", "no C++ compiler: torch.compile is not used", remedy)


def check_ray() -> Check:
    """Starts Ray, asks it one thing and stops it."""
    passed, said = _try(_RAY)
    if passed:
        return Check("ray", "ok", f"{metadata.version('ray')} {said}")
    remedy = "`make install`; in a container give it shared memory (docker run --shm-size=2g)"
    return Check("ray", "broken", f"does not start: {said}", remedy)


def check_cores() -> Check:
    """Counts the cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return Check("cores", "warning", "1", "it works, but sampling and learning share one core")
    return Check("cores", "ok", str(cores))


def check_disk(path: Path = Path()) -> Check:
    """Looks at the free space under `path`."""
    free = shutil.disk_usage(path).free / 2**30
    found = f"{free:.1f} GiB free"
    if free < FREE_GIB:
        remedy = f"configs/lab.yaml asks for {FREE_GIB:g} GiB: give runs=FOLDER elsewhere"
        return Check("disk", "warning", found, remedy)
    return Check("disk", "ok", found)


def _try(program: str) -> tuple[bool, str]:
    """Runs a program; returns whether it succeeded, and the last line that it said."""
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return False, "no answer within 120 s"
    said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()
    return done.returncode == 0, said.splitlines()[-1] if said else f"exit {done.returncode}"


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def _pins(constraints: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in constraints.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if "==" in line]
    return {_canonical(name): version for name, version in pairs}
