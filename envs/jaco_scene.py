"""What the Jaco task is made of, and how it looks: arm and hand, table, target, camera.

Arm and hand are dm_control's (`dm_control/third_party/kinova`), read from the installed package; a
scene is put around them once per process. The look of a domain is written onto the shared model
just before a picture, so that environments of different domains can share it. What makes one
process draw and step more than a thousand frames a second without a GPU: convex hulls of few
vertices in place of the meshes (the same at this resolution), no shadows, one GL context.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from envs.rendering import Canvas, import_mujoco

#: The joints that an action moves, in its order: six of the arm, three of the fingers.
JOINTS = (
    *(f"jaco/joint_{k}" for k in range(1, 7)),
    *(f"jaco/hand/finger_{k}" for k in range(1, 4)),
)
#: Largest speed of each of the nine joints, rad/s, and what its velocity servo may exert, N m:
#: the values of `dm_control.entities.manipulators.kinova` (of the fingers: see docs/jaco.md).
MAX_SPEED = (*3 * (math.radians(36.0),), *3 * (math.radians(48.0),), *3 * (1.0,))
MAX_TORQUE = (*3 * (30.5,), *3 * (6.8,), *3 * (1.0,))
SERVO_GAIN = (*6 * (500.0,), *3 * (10.0,))
TIMESTEP = 0.005
#: Where a finger ends, in the frame of its last body, metres.
FINGERTIP = (0.0437, -0.0043, 0.0)
HULL_VERTICES = 24
#: Bodies that no pose brings within half a centimetre of each other. Physics would take much of its
#: time to look for contacts between them. (The tips of fingers 1 and 3 come nearer.)
APART = (
    *(("b_base", "b_2"), ("b_4", "b_6"), ("b_4", "hand/hand")),
    *(("hand/hand", f"hand/b_finger_tip_{k}") for k in (1, 2, 3)),
    *(
        (f"hand/b_finger_{one}", f"hand/b_finger_{other}")
        for one, other in (
            *(("1", "2"), ("1", "tip_2"), ("tip_1", "2"), ("tip_1", "tip_2")),
            *(("1", "3"), ("1", "tip_3"), ("tip_1", "3")),
            *(("2", "3"), ("2", "tip_3"), ("tip_2", "3"), ("tip_2", "tip_3")),
        )
    ),
)

SHAPES = ("ball", "cube", "can")
#: What `object_maps` tells apart: the target, by shape, and the hand with its fingers.
KINDS = (*SHAPES, "hand")
#: Where the camera looks, metres: table, hand and the whole arm are around it. A policy needs the
#: arm: how a joint moves the hand follows from the angles of the first three.
CENTRE = (0.23, 0.23, 0.29)

OBJECT_COLOURS = {
    "red": (225, 45, 35),
    "blue": (40, 80, 230),
    "green": (45, 180, 70),
    "yellow": (245, 205, 40),
    "purple": (150, 60, 190),
}
OWN_COLOURS = {"ball": "red", "cube": "blue", "can": "green"}
TABLE_COLOURS = {
    "oak": (158, 112, 66),
    "slate": (62, 78, 94),
    "white": (225, 225, 220),
    "moss": (112, 130, 84),
}
#: Those of desks A and B are dark, since the arm is to be seen against them.
BACKDROP_COLOURS = {
    "navy": (44, 72, 118),
    "umber": (112, 80, 48),
    "grey": (130, 130, 130),
    "rose": (205, 150, 150),
}
ARM_COLOURS = {
    "silver": ((176, 178, 184), (232, 232, 236)),
    "black": ((58, 58, 62), (170, 170, 174)),
    "orange": ((222, 122, 40), (240, 225, 205)),
}
TEXTURES = ("plain", "tiles", "wood", "speckle")
TEXTURE_PIXELS = 128
#: Groups of geoms: table and room, target and arm, what is not drawn.
FIXED, MOVING, HIDDEN = 0, 1, 5


@dataclass(frozen=True)
class Look:
    """All that the appearance of a scene needs, resolved from a domain's factors.

    Attributes:
        shape: Index into `SHAPES`.
        size: Radius of the target, half its edge, metres.
        target: RGB 0-1.
        table: RGB 0-1 and index into `TEXTURES`.
        backdrop: RGB 0-1 and index into `TEXTURES`, of floor and walls.
        arm: RGB 0-1 of the links, and of the hand.
        light: Brightness, 1 is the source domains'.
        lamp: Where the lamp stands, degrees around the table, counter-clockwise from +x.
        azimuth: Where the camera stands, degrees around the table, counter-clockwise from +x.
        elevation: Height of the camera above the table, as an angle in degrees.
        distance: Of the camera from the middle of the table, metres.
        fov: Vertical (and horizontal) field of view in degrees.
        blur: Standard deviation of a Gaussian blur, pixels of a 64 x 64 picture.
        noise: Standard deviation of Gaussian noise on every value, grey levels (0-255).
    """

    shape: int
    size: float
    target: tuple[float, ...]
    table: tuple[tuple[float, ...], int]
    backdrop: tuple[tuple[float, ...], int]
    arm: tuple[tuple[float, ...], tuple[float, ...]]
    light: float
    lamp: float
    azimuth: float
    elevation: float
    distance: float
    fov: float
    blur: float
    noise: float


def rgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    """RGB 0-1 from 0-255."""
    return tuple(channel / 255.0 for channel in colour)


_SCENE_XML = """
<mujoco>
  <visual>
    <quality offsamples="0" numslices="12" numstacks="8" numquads="1"/>
    <map znear="0.05" zfar="10"/>
    <headlight specular="0 0 0"/>
  </visual>
  <statistic center="0.25 0.25 0" extent="1"/>
  <worldbody>
    <light name="lamp" type="directional" castshadow="false" specular="0 0 0"/>
    <geom name="table" type="box" pos=".25 .25 -.03" size=".5 .5 .03" contype="2" conaffinity="1"/>
    <geom name="floor" type="plane" pos="0 0 -.7" size="4 4 1" contype="0" conaffinity="0"/>
    <geom name="wall0" type="plane" pos="-1.2 0 0" size="4 4 1" zaxis="1 0 0" contype="0"
          conaffinity="0"/>
    <geom name="wall1" type="plane" pos="0 -1.2 0" size="4 4 1" zaxis="0 1 0" contype="0"
          conaffinity="0"/>
    <body name="target" mocap="true">
      <geom name="ball" type="sphere" size=".05" contype="0" conaffinity="0"/>
      <geom name="cube" type="box" size=".05 .05 .05" contype="0" conaffinity="0"/>
      <geom name="can" type="cylinder" size=".05 .05" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
</mujoco>"""


def _textures() -> dict[str, np.ndarray]:
    """Grey patterns, uint8 [TEXTURE_PIXELS, TEXTURE_PIXELS], the same in every process."""
    n, rng = TEXTURE_PIXELS, np.random.default_rng(7)
    y, x = np.mgrid[:n, :n]
    grain = gaussian_filter(rng.standard_normal((n, n)), (1.0, 20.0), mode="wrap")
    spots = gaussian_filter(rng.standard_normal((n, n)), 2.0, mode="wrap")
    patterns = {
        "tiles": np.where((x // (n // 4) + y // (n // 4)) % 2, 0.82, 1.0),
        "wood": 0.88 + 0.06 * grain / grain.std() - 0.12 * (y % (n // 4) < 2),
        "speckle": 0.85 + 0.1 * spots / spots.std(),
    }
    return {name: (255 * values.clip(0, 1)).astype(np.uint8) for name, values in patterns.items()}


@functools.cache
def shared_model() -> Any:
    """This process's `MjModel` of the whole scene; every simulation steps it, each its own data.

    Gravity is off: it stands for the compensation of the real arm's controller, and nothing else
    could fall.

    Raises:
        DependencyError: No off-screen OpenGL, with the packages to install.
    """
    mujoco = import_mujoco()
    package = importlib.util.find_spec("dm_control")
    assert package is not None and package.origin is not None, "dm_control is a requirement"
    folder = Path(package.origin).parent / "third_party" / "kinova"
    scene = mujoco.MjSpec.from_string(_SCENE_XML)
    arm, hand = (
        mujoco.MjSpec.from_file(str(folder / f"jaco_{name}.xml")) for name in ("arm", "hand")
    )
    arm.attach(hand, site="wristsite", prefix="hand/")
    for k in range(1, 4):
        arm.body(f"hand/b_finger_tip_{k}").add_site(name=f"tip_{k}", pos=FINGERTIP)
    scene.attach(arm, frame=scene.worldbody.add_frame(), prefix="jaco/")
    for mesh in scene.meshes:
        mesh.maxhullvert = HULL_VERTICES
    for one, other in APART:
        scene.add_exclude(bodyname1=f"jaco/{one}", bodyname2=f"jaco/{other}")
    for name, torque, gain in zip(JOINTS, MAX_TORQUE, SERVO_GAIN, strict=True):
        servo = scene.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_velocity(gain)
        servo.forcelimited, servo.forcerange = True, (-torque, torque)
    for name in TEXTURES[1:]:
        scene.add_texture(
            name=name,
            type=mujoco.mjtTexture.mjTEXTURE_2D,
            builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            width=TEXTURE_PIXELS,
            height=TEXTURE_PIXELS,
            nchannel=3,
        )
    for name in TEXTURES:
        material = scene.add_material(name=name, specular=0.0, shininess=0.0)
        if name != "plain":
            material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
            material.texuniform, material.texrepeat = True, (2.0, 2.0)
    scene.memory = 2**20
    scene.option.timestep = TIMESTEP
    scene.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    scene.option.gravity = (0.0, 0.0, 0.0)
    model = scene.compile()
    for name, pattern in _textures().items():
        texture = model.texture(name)
        start = int(texture.adr[0])
        model.tex_data[start : start + 3 * pattern.size] = np.repeat(pattern.ravel(), 3)
    return model


class JacoRenderer:
    """Draws scenes at one resolution; one is enough for all environments of a process.

    Args:
        size: Height and width of a picture in pixels.

    Raises:
        DependencyError: No off-screen OpenGL, with the packages to install.
    """

    def __init__(self, size: int) -> None:
        self._mujoco = mujoco = import_mujoco()
        self.size = size
        # A copy, since the look is written onto it.
        self._model = model = copy.copy(shared_model())
        self._canvas = Canvas(model, size, 2 * model.ngeom)
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = CENTRE
        self._everything, self._table_only = mujoco.MjvOption(), mujoco.MjvOption()
        for option in (self._everything, self._table_only):
            option.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = 1
            option.geomgroup[HIDDEN] = 0
        self._table_only.geomgroup[MOVING] = 0
        self._perturb = mujoco.MjvPerturb()
        self._look: Look | None = None
        self._known: dict[Look, tuple[np.ndarray, ...]] = {}
        names = [model.geom(index).name for index in range(model.ngeom)]
        self._hand = [i for i, name in enumerate(names) if name.startswith("jaco/hand/")]
        links = ("jaco/base", "jaco/link")
        self._links = [i for i, name in enumerate(names) if name.startswith(links)]
        self._shapes = [names.index(shape) for shape in SHAPES]
        self._background = [names.index(name) for name in ("floor", "wall0", "wall1")]
        self._table = names.index("table")
        model.geom_group[:] = FIXED
        model.geom_group[[*self._links, *self._hand]] = MOVING
        # The rings at the joints cost as much time as all the rest, and are a pixel wide.
        model.geom_group[[i for i, name in enumerate(names) if "ring" in name]] = HIDDEN
        self._kind = np.full(model.ngeom + 1, -1, np.int8)
        self._kind[self._shapes] = range(len(SHAPES))
        self._kind[self._hand] = KINDS.index("hand")

    def _apply(self, look: Look) -> None:
        """Writes a look onto the model and the camera."""
        model = self._model
        group, size, rgba, material = self._geoms(look)
        model.geom_group[:], model.geom_size[:] = group, size
        model.geom_rgba[:], model.geom_matid[:] = rgba, material
        lamp = math.radians(look.lamp)
        model.light_dir[0] = (-math.cos(lamp), -math.sin(lamp), -1.2)
        model.light_diffuse[0] = 0.45 * look.light
        model.vis.headlight.ambient[:] = 0.5 * look.light
        model.vis.headlight.diffuse[:] = 0.15 * look.light
        camera = self._camera
        camera.azimuth, camera.elevation = look.azimuth + 180.0, -look.elevation
        camera.distance = look.distance
        model.vis.global_.fovy = look.fov
        self._look = look

    def _geoms(self, look: Look) -> tuple[np.ndarray, ...]:
        """Groups, sizes, colours and materials of all geoms; worked out once for each look."""
        if look not in self._known:
            model = self._model
            group, size = model.geom_group.copy(), model.geom_size.copy()
            rgba, material = model.geom_rgba.copy(), model.geom_matid.copy()
            group[self._shapes] = HIDDEN
            group[self._shapes[look.shape]] = MOVING
            size[self._shapes] = look.size
            rgba[self._shapes, :3] = look.target
            surfaces = [(self._table, look.table), *((i, look.backdrop) for i in self._background)]
            for index, (colour, texture) in surfaces:
                rgba[index, :3] = colour
                material[index] = model.material(TEXTURES[texture]).id
            rgba[self._links, :3], rgba[self._hand, :3] = look.arm
            self._known[look] = group, size, rgba, material
        return self._known[look]

    def _place(self, look: Look, data: Any, option: Any) -> None:
        """Fills the scene."""
        mujoco = self._mujoco
        if look is not self._look:
            self._apply(look)
        mujoco.mj_camlight(self._model, data)  # the lamp may have moved
        mujoco.mjv_updateScene(
            self._model,
            data,
            option,
            self._perturb,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._canvas.scene,
        )

    def frame(self, look: Look, data: Any, key: tuple[int, ...], out: np.ndarray) -> None:
        """Draws one picture into `out`.

        Args:
            look: Appearance of the scene and the camera.
            data: `MjData` with up-to-date positions.
            key: Seed of the noise, where the look has any.
            out: uint8 [size, size, 3], overwritten.
        """
        self._place(look, data, self._everything)
        self._finish(self._canvas.picture(), look, key, out)

    def object_maps(
        self, look: Look, data: Any, key: tuple[int, ...], kinds: np.ndarray, empty: np.ndarray
    ) -> None:
        """Draws what an evaluation of the vision needs to know about a picture.

        Args:
            look: As for `frame`.
            data: As for `frame`.
            key: As for `frame`.
            kinds: int8 [size, size], overwritten: index into `KINDS` of what a pixel shows, or -1.
            empty: uint8 [size, size, 3], overwritten: the picture without target, arm and hand.
        """
        self._place(look, data, self._everything)
        scene = self._canvas.scene
        drawn = [geom.objid for geom in scene.geoms[: scene.ngeom]]
        kinds[...] = self._kind[np.array([-1, *drawn])][self._canvas.numbers()]
        self._place(look, data, self._table_only)
        self._finish(self._canvas.picture(), look, key, empty)

    def _finish(
        self, picture: np.ndarray, look: Look, key: tuple[int, ...], out: np.ndarray
    ) -> None:
        """Copies a picture as the camera of a look takes it: blurred, then noisy."""
        if not look.blur and not look.noise:
            out[...] = picture
            return
        values = picture.astype(np.float32)
        if look.blur:
            sigma = look.blur * self.size / 64
            values = gaussian_filter(values, (sigma, sigma, 0), mode="nearest")
        if look.noise:
            rng = np.random.default_rng(key)
            values += np.float32(look.noise) * rng.standard_normal(values.shape, np.float32)
        out[...] = values.round().clip(0, 255)
