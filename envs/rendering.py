"""One OpenGL context per process, off screen, shared by every environment in it.

MuJoCo needs EGL (or OSMesa) on a machine without a display; the backend is chosen when `mujoco` is
first imported, so this module sets `MUJOCO_GL=egl` where nothing else was asked for. Mesa's
software rasteriser is fastest without threads of its own at these sizes, hence `LP_NUM_THREADS=0`.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

from darla.errors import DependencyError

GL_PACKAGES = "libegl1 libopengl0 libgl1-mesa-dri"
REMEDY = (
    f"no off-screen OpenGL: install it with 'apt-get install {GL_PACKAGES}' and check with "
    "'darla doctor' "
    "(MUJOCO_GL=osmesa with libosmesa6 works too)"
)

_context: Any = None


def choose_backend() -> None:
    """Chooses an off-screen backend for `mujoco`, where nothing else was asked for.

    To be called before anything imports `mujoco`, which looks for a display otherwise, and warns.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
        if os.environ["MUJOCO_GL"] == "egl":
            os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")


def import_mujoco() -> Any:
    """Imports `mujoco` with an off-screen backend and makes this process's GL context current.

    Returns:
        The `mujoco` module.

    Raises:
        DependencyError: No OpenGL library, or no context, with the packages to install.
    """
    global _context
    choose_backend()
    try:
        import mujoco

        if _context is None:
            if os.environ.get("MUJOCO_GL") == "egl":
                # Where another library imported `mujoco` first, its default is another one.
                from mujoco.egl import GLContext
            else:
                GLContext = mujoco.GLContext
            # Off-screen buffers belong to each MjrContext; the window of the context itself is
            # never drawn to.
            _context = GLContext(16, 16)
            _context.make_current()
            # While the modules that its destructor needs are still there.
            atexit.register(_context.free)
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise DependencyError(f"{REMEDY}; the cause: {error}") from error
    return mujoco
