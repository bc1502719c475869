"""What the Lab looks like: a room, objects turned on a lathe, a camera.

A MuJoCo model only supplies meshes and textures. Each picture fills the list of visible geoms and
the camera by hand (no kinematics, no `mjv_updateScene`), leaves out objects outside the view cone,
and is read back with one call. That is what makes one process draw thousands of frames a second
without a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envs.rendering import Canvas, import_mujoco

#: Object kinds in the order of their index: 0 hat, 1 can, 2 cake, 3 balloon.
KINDS = ("hat", "can", "cake", "balloon")

#: Outlines (radius, height) in metres, from the bottom up; each is turned around the vertical axis.
PROFILES: dict[str, tuple[tuple[float, float], ...]] = {
    "hat": ((0.48, 0.0), (0.48, 0.06), (0.29, 0.08), (0.27, 0.43), (0.2, 0.5)),
    "can": ((0.25, 0.0), (0.25, 0.75)),
    "cake": ((0.46, 0.0), (0.46, 0.28), (0.3, 0.28), (0.3, 0.52), (0.07, 0.52), (0.06, 0.74)),
    "balloon": (
        (0.035, 0.0),
        (0.035, 0.34),
        (0.22, 0.48),
        (0.35, 0.66),
        (0.35, 0.8),
        (0.26, 0.97),
        (0.12, 1.06),
    ),
}
SLICES = 10
#: Largest distance of a point of an object from its foot, in metres: the margin of the view cone.
REACH = 0.5

#: RGB 0-255 of the released DeepMind Lab level (rooms_collect_good_objects).
OBJECT_COLOURS: dict[str, dict[str, tuple[int, int, int]]] = {
    "original": {
        "hat": (58, 31, 255),
        "can": (241, 255, 30),
        "cake": (36, 255, 174),
        "balloon": (255, 12, 154),
    },
    "pastel": {
        "hat": (140, 130, 255),
        "can": (250, 255, 150),
        "cake": (150, 255, 215),
        "balloon": (255, 140, 205),
    },
}
WALL_COLOURS = {
    "green": (64, 140, 70),
    "red": (150, 44, 40),
    "grey": (140, 140, 140),
    "purple": (100, 60, 130),
    "teal": (40, 120, 130),
}
FLOOR_COLOURS = {
    "orange": (190, 112, 48),
    "blue": (38, 62, 120),
    "grey": (120, 120, 120),
    "brown": (96, 66, 44),
    "olive": (110, 116, 50),
}
CEILING_COLOUR = (205, 215, 225)
WALL_HEIGHT = 3.0


@dataclass(frozen=True)
class Look:
    """All that the appearance of a room needs, resolved from a domain's factors.

    Attributes:
        walls: RGB 0-1.
        floor: RGB 0-1.
        objects: RGB 0-1 per kind, in the order of `KINDS`.
        light: Brightness of the light, 1 is the source domains'.
        height: Eye height in metres.
        pitch: Downward tilt of the camera in degrees.
        fov: Vertical (and horizontal) field of view in degrees.
    """

    walls: tuple[float, ...]
    floor: tuple[float, ...]
    objects: tuple[tuple[float, ...], ...]
    light: float
    height: float
    pitch: float
    fov: float


def _rgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / 255.0 for channel in colour)


def make_look(
    walls: str, floor: str, objects: str, light: float, height: float, pitch: float, fov: float
) -> Look:
    """A `Look` from the names of colours (keys of the tables above) and the numbers as they are."""
    palette = OBJECT_COLOURS[objects]
    colours = tuple(_rgb(palette[kind]) for kind in KINDS)
    return Look(
        _rgb(WALL_COLOURS[walls]), _rgb(FLOOR_COLOURS[floor]), colours, light, height, pitch, fov
    )


def lathe(profile: tuple[tuple[float, float], ...], slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Turns an outline around the vertical axis into a closed triangle mesh.

    Args:
        profile: (radius, height) pairs from the bottom up, in metres.
        slices: Number of faces around the axis.

    Returns:
        Vertices, float64 [N, 3], and faces, int64 [M, 3], counter-clockwise seen from outside.
    """
    angles = 2 * math.pi * np.arange(slices) / slices
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    rows = [np.column_stack([ring * r, np.full(slices, z)]) for r, z in profile]
    vertices = np.concatenate([*rows, [[0, 0, profile[0][1]], [0, 0, profile[-1][1]]]])
    bottom, top = len(vertices) - 2, len(vertices) - 1
    faces = []
    for level in range(len(profile)):
        for k in range(slices):
            a, b = level * slices + k, level * slices + (k + 1) % slices
            if level == 0:
                faces.append((bottom, b, a))
            if level == len(profile) - 1:
                faces.append((top, a, b))
            else:
                faces += [(a, b, b + slices), (a, b + slices, a + slices)]
    return vertices, np.array(faces)


def _model_xml(width: float, depth: float) -> str:
    meshes = []
    for kind in KINDS:
        vertices, faces = lathe(PROFILES[kind], SLICES)
        vertex = " ".join(f"{value:.5f}" for value in vertices.ravel())
        face = " ".join(str(value) for value in faces.ravel())
        meshes.append(f'<mesh name="{kind}" vertex="{vertex}" face="{face}"/>')
    objects = [f'<geom name="{kind}" type="mesh" mesh="{kind}"/>' for kind in KINDS]
    h, t = WALL_HEIGHT / 2, 0.1
    walls = [
        f'<geom name="wall{i}" type="box" size="{sx} {sy} {h}" pos="{x} {y} {h}" material="wall"/>'
        for i, (x, y, sx, sy) in enumerate(
            [
                (width / 2, -t, width / 2, t),
                (width / 2, depth + t, width / 2, t),
                (-t, depth / 2, t, depth / 2),
                (width + t, depth / 2, t, depth / 2),
            ]
        )
    ]
    return f"""
    <mujoco>
      <visual>
        <quality offsamples="0" numslices="12" numstacks="8" numquads="1"/>
        <map znear="0.01" zfar="5"/>
      </visual>
      <asset>
        <texture name="tiles" type="2d" builtin="checker" rgb1="1 1 1" rgb2=".9 .9 .9" width="16"
        height="16"/> <texture name="boards" type="2d" builtin="gradient" rgb1="1 1 1" rgb2=".8 .8
        .8" width="16" height="16"/> <material name="floor" texture="tiles" texrepeat="5 4.5"
        specular="0" shininess="0"/> <material name="wall" specular="0" shininess="0"/>
        {"".join(meshes)}
      </asset>
      <worldbody>
        <geom name="floor" type="box" size="{width / 2} {depth / 2} {t}" pos="{width / 2} {
        depth / 2
    } {-t}"
              material="floor"/>
        <geom name="ceiling" type="box" size="{width / 2} {depth / 2} {t}"
              pos="{width / 2} {depth / 2} {WALL_HEIGHT + t}"/>
        {"".join(walls)}
        {"".join(objects)}
      </worldbody>
    </mujoco>"""


class LabRenderer:
    """Draws rooms of one size at one resolution; one is enough for all environments of a process.

    Args:
        width: Extent of the room along x, metres.
        depth: Extent of the room along y, metres.
        size: Height and width of a picture in pixels.

    Raises:
        DependencyError: No off-screen OpenGL, with the packages to install.
    """

    def __init__(self, width: float, depth: float, size: int) -> None:
        mujoco = import_mujoco()
        model = mujoco.MjModel.from_xml_string(_model_xml(width, depth))
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        self._canvas = Canvas(model, size, 64)
        self._scene = scene = self._canvas.scene
        mujoco.mjv_updateScene(
            model,
            data,
            mujoco.MjvOption(),
            mujoco.MjvPerturb(),
            mujoco.MjvCamera(),
            mujoco.mjtCatBit.mjCAT_ALL,
            scene,
        )
        geoms = {model.geom(scene.geoms[i].objid).name: i for i in range(scene.ngeom)}
        self._floor = scene.geoms[geoms["floor"]]
        self._walls = [scene.geoms[geoms[f"wall{i}"]] for i in range(4)]
        ceiling = scene.geoms[geoms["ceiling"]]
        ceiling.rgba[:3] = _rgb(CEILING_COLOUR)
        for geom in (self._floor, ceiling, *self._walls):
            geom.segid = -1
        self._first = len(geoms) - len(KINDS)
        templates = [scene.geoms[geoms[kind]] for kind in KINDS]
        self._meshes = [(g.dataid, np.array(g.mat), np.array(g.pos)) for g in templates]
        for slot in range(self._first, 64):
            geom = scene.geoms[slot]
            mujoco.mjv_initGeom(
                geom,
                mujoco.mjtGeom.mjGEOM_MESH,
                np.ones(3),
                np.zeros(3),
                np.eye(3).ravel(),
                np.ones(4, np.float32),
            )
            geom.specular = geom.shininess = 0.0
            geom.category = mujoco.mjtCatBit.mjCAT_DYNAMIC
        self._slots = [scene.geoms[slot] for slot in range(self._first, 64)]
        self._look: Look | None = None

    def _apply(self, look: Look) -> None:
        self._floor.rgba[:3] = look.floor
        for wall in self._walls:
            wall.rgba[:3] = look.walls
        light = self._scene.lights[0]
        light.ambient[:] = 0.7 * look.light
        light.diffuse[:] = 0.35 * look.light
        light.specular[:] = 0.0
        self._look = look

    def _place(
        self,
        look: Look,
        position: tuple[float, float],
        heading: float,
        objects: np.ndarray,
        kinds: np.ndarray,
    ) -> None:
        """Fills camera and geoms: the eye, and the objects that its view cone meets."""
        if look is not self._look:
            self._apply(look)
        scene, (x, y) = self._scene, position
        cos, sin = math.cos(heading), math.sin(heading)
        pitch = math.radians(look.pitch)
        up, down = math.cos(pitch), math.sin(pitch)
        near, half = 0.05, math.tan(math.radians(look.fov) / 2)
        for camera in scene.camera:
            camera.pos[:] = (x, y, look.height)
            camera.forward[:] = (cos * up, sin * up, -down)
            camera.up[:] = (cos * down, sin * down, up)
            camera.frustum_near, camera.frustum_far = near, 40.0
            camera.frustum_top, camera.frustum_bottom = near * half, -near * half
            camera.frustum_center, camera.frustum_width = 0.0, 0.0
        dx, dy = objects[:, 0] - x, objects[:, 1] - y
        ahead, aside = dx * cos + dy * sin, np.abs(dy * cos - dx * sin)
        margin = REACH * math.sqrt(1 + half * half)
        seen = np.flatnonzero((ahead > -REACH) & (aside < ahead * half + margin + REACH * half))
        for slot, index in zip(self._slots, seen.tolist(), strict=False):
            kind = int(kinds[index])
            slot.dataid, slot.mat[:], offset = self._meshes[kind]
            slot.pos[:] = (objects[index, 0] + offset[0], objects[index, 1] + offset[1], offset[2])
            slot.rgba[:3] = look.objects[kind]
            slot.segid = index
        scene.ngeom = self._first + len(seen)

    def frame(
        self,
        look: Look,
        position: tuple[float, float],
        heading: float,
        objects: np.ndarray,
        kinds: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Draws one picture into `out`.

        Args:
            look: Appearance of the room and the camera.
            position: x and y of the eye, metres.
            heading: Direction of view, radians, counter-clockwise from +x.
            objects: Feet of the objects that are there, float [N, 2], metres.
            kinds: Their kinds, int [N], indices into `KINDS`.
            out: uint8 [size, size, 3], overwritten.
        """
        self._place(look, position, heading, objects, kinds)
        out[...] = self._canvas.picture()

    def segmentation(
        self,
        look: Look,
        position: tuple[float, float],
        heading: float,
        objects: np.ndarray,
        kinds: np.ndarray,
    ) -> np.ndarray:
        """Which object each pixel shows.

        Arguments are those of `frame`.

        Returns:
            int16 [size, size]: index into `objects`, or -1 where there is none.
        """
        self._place(look, position, heading, objects, kinds)
        return (self._canvas.numbers() - 1).astype(np.int16)
