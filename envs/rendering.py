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

import numpy as np

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


class Canvas:
    """A scene of a model, and where it is drawn off screen at one resolution.

    Shadows, reflections, fog and haze are off.

    Args:
        model: The model; its off-screen size is set.
        size: Height and width of a picture in pixels.
        geoms: Geoms that the scene has room for.

    Attributes:
        scene: What is drawn.

    Raises:
        DependencyError: No off-screen OpenGL, with the packages to install.
    """

    def __init__(self, model: Any, size: int, geoms: int) -> None:
        self._mujoco = mujoco = import_mujoco()
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._model = model  # the context keeps no reference to it
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        atexit.register(self._context.free)  # before the GL context's own
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._buffer = np.empty((size, size, 3), np.uint8)
        self.scene = mujoco.MjvScene(model, geoms)
        flags = mujoco.mjtRndFlag
        for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_FOG, flags.mjRND_HAZE):
            self.scene.flags[flag] = 0
        self._segment_flags = [int(flags.mjRND_SEGMENT), int(flags.mjRND_IDCOLOR)]

    def picture(self) -> np.ndarray:
        """Draws the scene; returns uint8 [size, size, 3], which the next drawing overwrites."""
        mujoco = self._mujoco
        # A canvas of another size may have drawn since.
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjr_render(self._viewport, self.scene, self._context)
        mujoco.mjr_readPixels(self._buffer, None, self._viewport, self._context)
        return self._buffer[::-1]

    def numbers(self) -> np.ndarray:
        """Returns 1 + `segid` of the geom that each pixel shows, or 0: int32 [size, size]."""
        for flag in self._segment_flags:
            self.scene.flags[flag] = 1
        colours = self.picture().astype(np.int32)
        for flag in self._segment_flags:
            self.scene.flags[flag] = 0
        return colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
