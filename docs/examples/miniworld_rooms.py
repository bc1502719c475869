"""MiniWorld as a world of DARLA: walk to the box, in a room whose walls and box change."""

import os

os.environ["PYGLET_HEADLESS"] = "1"  # before MiniWorld is imported

from miniworld.entity import Box
from miniworld.envs.oneroom import OneRoom
from miniworld.params import DEFAULT_PARAMS

from envs.domains import Domain, Factor, Suite, World, product
from envs.registry import Simulator, register
from envs.single import vector_of

WORLD = World(
    "miniworld",
    (
        Factor("walls", None, "texture of the walls", ("brick_wall", "wood", "marble")),
        Factor("box", None, "colour of the box", ("red", "blue", "yellow")),
        Factor("light", 0.6, "brightness", low=0.1, high=1.0),
    ),
)


class Room(OneRoom):
    """MiniWorld's OneRoom in the looks of a domain."""

    def __init__(self, domain: Domain, size: int, frame_skip: int) -> None:
        self.set_domain(domain)
        params = DEFAULT_PARAMS.no_random()
        params.set("forward_step", 0.15 * frame_skip)
        params.set("turn_step", 10 * frame_skip)
        params.set("cam_fov_y", 80)
        params.set("cam_pitch", -10)
        shape = {"obs_width": size, "obs_height": size, "window_width": 64, "window_height": 64}
        super().__init__(5, 60, params=params, **shape)  # no large window, which none looks at

    def set_domain(self, domain: Domain) -> None:
        """Takes the looks of another domain from the next episode on."""
        self.factors = domain.factors

    def _gen_world(self) -> None:
        looks = {"wall_tex": self.factors["walls"], "floor_tex": "concrete"}
        self.add_rect_room(0, self.size, 0, self.size, **looks)
        self.box = self.place_entity(Box(color=self.factors["box"]))
        for lamp in ("light_color", "light_ambient"):
            self.params.set(lamp, [self.factors["light"]] * 3)
        self.place_agent()


known = product(WORLD, walls=("brick_wall", "wood"), box=("red", "blue"))
target = WORLD.domain(walls="wood", box="red")
register(
    Simulator(
        "miniworld/Room-v0",
        vector_of(Room, WORLD),
        (
            Suite(
                "miniworld",
                "red boxes between wooden walls, where the policy saw only blue ones",
                WORLD,
                d_u=known,
                d_s=tuple(domain for domain in known if domain != target),
                d_t=(target, WORLD.domain(walls="wood", box="red", light=0.3)),
            ),
        ),
    )
)
