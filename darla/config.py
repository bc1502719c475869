"""The configuration of an experiment: a typed tree, from YAML and `key=value` words.

Every field states its meaning, unit and range, so that `darla config schema` is the reference
manual. Unknown keys, wrong types and values out of range are collected and reported together.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticUndefined, core_schema

from darla.errors import ConfigError, did_you_mean

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

OWN = "own-"
"""How the names of perceptions begin that a plugin registers (`darla.vision.own`)."""
PERCEPTIONS = (
    "darla",
    "fine-tuned",
    "entangled",
    "beta-vae",
    "dae",
    "pixels",
    "pixels+augmentation",
    "domain-randomisation",
    "factors",
    "random",
)


@dataclass(frozen=True)
class OneOf:
    """Marks a text that is one of some names, or begins like those that come from elsewhere."""

    names: tuple[str, ...]
    beginning: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Lets pydantic check the text."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def allows(self, given: str) -> bool:
        """Whether a text is among the names, or could come from elsewhere."""
        return given in self.names or bool(re.fullmatch(f"{self.beginning}[a-z0-9-]+", given))

    def _check(self, given: str) -> str:
        if self.allows(given):
            return given
        raise PydanticCustomError("one_of", "not among the names")

    def __str__(self) -> str:
        """Returns the names in words."""
        return f"{_one_of(self.names)} or {self.beginning}NAME"


PERCEPTION_NAMES = OneOf(PERCEPTIONS, OWN)
PerceptionName = Annotated[str, PERCEPTION_NAMES]
AlgorithmName = Literal["dqn", "a3c", "unreal", "ec"]


#: A path as typed, but for `~`, the home folder, which not every shell replaces.
PathText = Annotated[str, AfterValidator(os.path.expanduser)]


class Section(BaseModel):
    """A part of the tree. Unknown keys are errors, and no value is coerced from another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Makes tuples of YAML's lists, and completes a section from the defaults of its place.

        The place matters: `optimisation: {images: 1000}` keeps a learning rate of 1e-3 under `dae`,
        1e-4 under `vae`.
        """
        if not isinstance(values, dict):
            return values
        completed = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        for name, field in cls.model_fields.items():
            given = completed.get(name)
            if isinstance(given, dict) and isinstance(field.default, Section):
                completed[name] = _merged(field.default, given)
        return completed


def _merged(section: Section, given: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the values of `section`, replaced by those that are given."""
    merged: dict[Any, Any] = {**dict(section), **given}
    for name, value in given.items():
        default = getattr(section, name, None) if isinstance(name, str) else None
        if isinstance(value, dict) and isinstance(default, Section):
            merged[name] = _merged(default, value)
    return merged


class EnvironmentConfig(Section):
    """The world that is acted in."""

    id: str = Field("darla/Lab-v0", description="Gymnasium id of the environment.")
    plugin: PathText | None = Field(
        None,
        description="Python file (.py) or module of your own that registers `id`, suites or "
        "visions; null where all is built in or installed.",
    )
    size: int = Field(
        64, ge=16, le=512, description="Height and width of an observation in pixels."
    )
    frame_skip: int = Field(
        12,
        ge=1,
        le=60,
        description="Frames that one decision lasts (Lab: 1/60 s each; Jaco: 0.1 s each).",
    )


class RayConfig(Section):
    """Who does the work. Nothing here changes a result, except `workers` and `envs_per_worker`."""

    address: str | None = Field(
        None,
        description="A running Ray cluster ('auto' or host:port); null starts Ray on this machine.",
    )
    workers: PositiveInt = Field(2, description="Ray actors that step environments.")
    envs_per_worker: PositiveInt = Field(
        8, description="Environments that one worker steps as a vector."
    )
    cpus_per_worker: NonNegativeFloat = Field(
        0.5, description="CPUs that Ray reserves for one worker."
    )


class FramesConfig(Section):
    """Stage 1, the data: frames of an exploration policy in D_U."""

    count: int = Field(40_000, ge=4, description="Frames to collect, over all domains of D_U.")
    policy: PathText = Field(
        "explorer",
        min_length=1,
        description="Who collects: 'explorer' (starts anywhere with a free view, turns away from "
        "walls), 'random' (uniform actions in the task's own episodes), or RUN/CELL, a policy "
        "that another run trained, such as runs/lab-quick/dqn-darla-s0.",
    )
    epsilon: Fraction = Field(
        0.2, description="Share of random actions of a policy that another run trained."
    )
    validation: float = Field(
        0.05,
        gt=0.0,
        lt=0.5,
        description="Share of the frames, in layouts of their own, kept for evaluation.",
    )
    segment: PositiveInt = Field(
        8, description="Decisions that the explorer takes from one random pose."
    )
    shard: PositiveInt = Field(2_000, description="Frames in one file on disk.")
    seed: int = Field(0, ge=0, description="Seed of layouts, poses and the exploration policy.")


class OptimisationConfig(Section):
    """How one model is trained: on a cosine schedule after a linear warm-up."""

    images: PositiveInt = Field(description="Images that the training consumes, with repetition.")
    batch: PositiveInt = Field(100, description="Images in one step.")
    optimiser: Literal["adam", "adagrad"] = Field("adam", description="The optimiser.")
    learning_rate: PositiveFloat = Field(1e-3, description="Peak step size.")
    warmup: Fraction = Field(
        0.05, description="Share of the steps with a linearly rising step size."
    )
    final: Fraction = Field(
        0.05,
        description="Step size at the end as a share of the peak (1: constant after the warm-up).",
    )
    gradient_norm: PositiveFloat | None = Field(
        None, description="Global norm to which gradients are clipped; null: never."
    )


class DAEConfig(Section):
    """The denoising autoencoder (1707.08475, section 4.1): its features J replace the pixels."""

    bottleneck: PositiveInt = Field(100, description="Width of the fully connected bottleneck.")
    occlusion: Fraction = Field(
        1.0, description="Share of the images in which a rectangle is blacked out."
    )
    optimisation: OptimisationConfig = OptimisationConfig(images=190_000)


class CapacityConfig(Section):
    """The KL divergence C that the `capacity` objective holds the latents to (1804.03599)."""

    start: NonNegativeFloat = Field(0.0, description="C at the first step, in nats.")
    end: NonNegativeFloat = Field(25.0, description="C after its linear rise, in nats.")
    share: Fraction = Field(1.0, description="Share of the steps over which C rises.")


class VAEConfig(Section):
    """The beta-VAE: its network, reconstruction term and objective."""

    network: Literal["darla", "burgess", "mlp"] = Field(
        "darla",
        description="Layers of 1707.08475, of 1804.03599 (4 x 32 filters, two fully connected), or "
        "of 1606.05579 (fully connected).",
    )
    reconstruction: Literal["dae", "pixel", "gaussian", "bernoulli"] = Field(
        "dae",
        description="The DAE's features; or pixels with unit variance, with the decoder's own "
        "variance, or as independent Bernoulli variables.",
    )
    objective: Literal["beta", "normalised", "capacity"] = Field(
        "beta",
        description="Reconstruction + beta * KL; the same with beta times values of a picture per "
        "latent; or reconstruction + gamma * |KL - C|.",
    )
    layer: Literal["output", "bottleneck"] = Field(
        "output", description="J: the DAE's last layer before the non-linearity, or its bottleneck."
    )
    beta: NonNegativeFloat = Field(1.0, description="Weight of the KL term, summed over latents.")
    gamma: NonNegativeFloat = Field(
        1000.0, description="Weight of |KL - C| in the `capacity` objective."
    )
    capacity: CapacityConfig = CapacityConfig()
    pixel_weight: NonNegativeFloat = Field(
        0.0,
        description="Weight of a squared pixel error of the decoder's mean beside the DAE's term.",
    )
    warm_start: bool = Field(
        False,
        description="Start network `darla` from the DAE's convolutions (not in the paper).",
    )
    latents: PositiveInt = Field(32, description="Number of latents.")
    hidden: PositiveInt = Field(256, description="Width of the fully connected layers.")
    decoder: Literal["sample", "mean"] = Field(
        "sample",
        description="What J reads: a sample of the Gaussian decoder (the paper), or its mean.",
    )
    optimisation: OptimisationConfig = OptimisationConfig(images=400_000, learning_rate=1e-4)

    @model_validator(mode="after")
    def _can_start_warm(self) -> VAEConfig:
        if self.warm_start and self.network != "darla":
            raise ValueError(
                f"vision.vae.warm_start=true needs vision.vae.network=darla, not '{self.network}'"
            )
        return self


class EntangledConfig(Section):
    """The beta-VAE of perception `entangled` (DARLA_ENC): that of `vision.vae` with a low beta."""

    beta: NonNegativeFloat = Field(
        0.01,
        description="Weight of the KL term; the objective is beta, all else as in vision.vae.",
    )


class PixelVAEConfig(Section):
    """The beta-VAE of perception `beta-vae`: that of `vision.vae` with a pixel loss."""

    beta: NonNegativeFloat = Field(
        0.3,
        description="Weight of the KL term beside half the squared pixel error; the objective is "
        "beta, all else as in vision.vae.",
    )
    reconstruction: Literal["pixel", "gaussian", "bernoulli"] = Field(
        "pixel", description="The likelihood of the pixels, as in vision.vae."
    )


class GateConfig(Section):
    """What the DAE must show before the VAE starts, which cannot learn what the DAE lost."""

    object_error: PositiveFloat = Field(
        0.5,
        description="Largest allowed error on object pixels; 1.0 is that of painting objects away.",
    )
    action: Literal["stop", "warn"] = Field(
        "warn", description="What happens when the DAE is not good enough."
    )


class VisionConfig(Section):
    """Stage 1, the models."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of initial weights, batches and noise.")
    device: str = Field("auto", description="'auto', 'cpu', 'cuda' or 'cuda:N'.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="'auto' takes bfloat16 where the processor computes it natively."
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile; 'auto': where there is a C++ compiler and the run is long.",
    )
    parts: PositiveInt = Field(
        2,
        description="Parts of a batch that threads of their own compute on a CPU; the results "
        "depend on it, but not on the number of cores.",
    )
    processes: PositiveInt = Field(
        1,
        description="Processes that share every batch by Ray Train, each with a GPU of its own "
        "where the device is one. Pictures and noise of a batch do not depend on it.",
    )
    pictures: Literal["auto", "memory", "disk"] = Field(
        "auto",
        description="Where the frames are while a model is trained: 'memory' of the device, 'disk' "
        "for more frames than memory, 'auto' memory if they fill at most half of what is free.",
    )
    evaluate_every: PositiveInt = Field(50_000, description="Images between two evaluations.")
    checkpoint_every: PositiveInt = Field(50_000, description="Images between two checkpoints.")
    gate: GateConfig = GateConfig()
    dae: DAEConfig = DAEConfig()
    vae: VAEConfig = VAEConfig()
    entangled: EntangledConfig = EntangledConfig()
    beta_vae: PixelVAEConfig = PixelVAEConfig()


class ShapesConfig(Section):
    """The 2D shapes of `darla shapes`, on which papers compare beta-VAEs."""

    file: PathText | None = Field(
        None, description="The original dSprites file (.npz); null draws the shapes."
    )
    held_out: bool = Field(
        False, description="Keep hearts in the upper right quarter from training."
    )
    sample: int = Field(
        50_000, ge=100, description="Pictures from which the disentanglement is scored."
    )


class DQNConfig(Section):
    """DQN (Mnih et al. 2015) with double estimates, n-step returns and a target network."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256), description="Widths of the hidden layers.")
    learning_rate: PositiveFloat = Field(5e-4, description="Adam's step size.")
    batch: PositiveInt = Field(64, description="Transitions in one update.")
    decisions_per_update: PositiveInt = Field(8, description="Decisions taken per update.")
    replay: PositiveInt = Field(100_000, description="Transitions that the replay holds.")
    warmup: int = Field(
        4_000, ge=0, description="Decisions of the random policy before learning starts."
    )
    discount: Fraction = Field(0.9, description="Discount per decision.")
    n_step: PositiveInt = Field(5, description="Rewards summed before the bootstrap.")
    double: bool = Field(True, description="Choose the bootstrap action by the online network.")
    target_period: PositiveInt = Field(
        500, description="Updates between two copies to the target network."
    )
    epsilon_start: Fraction = Field(1.0, description="Exploration at the first decision.")
    epsilon_end: Fraction = Field(0.05, description="Exploration after the schedule.")
    epsilon_fraction: Fraction = Field(
        0.4, description="Share of the decisions over which epsilon falls."
    )
    weight_decay: NonNegativeFloat = Field(1.0, description="Decoupled weight decay (AdamW).")
    latent_noise: NonNegativeFloat = Field(
        0.3,
        description="Standard deviation of fresh Gaussian noise on latents with a standard normal "
        "prior, each time that they are learned on.",
    )
    gradient_norm: PositiveFloat | None = Field(
        10.0, description="Global norm of clipped gradients."
    )


class ActorCriticConfig(Section):
    """What A3C and UNREAL share."""

    hidden: tuple[PositiveInt, ...] = Field((256, 256), description="Widths of the hidden layers.")
    lstm: int = Field(0, ge=0, description="Units of an LSTM behind them; 0: none.")
    optimiser: Literal["adam", "rmsprop"] = Field(
        "adam", description="Its statistics are shared by all workers."
    )
    learning_rate: PositiveFloat = Field(3e-3, description="Step size at the beginning.")
    anneal: bool = Field(True, description="Let the step size fall linearly to 0 at the end.")
    n_step: PositiveInt = Field(
        5, description="Steps of every environment of a worker in one gradient."
    )
    discount: Fraction = Field(0.9, description="Discount per decision.")
    entropy: NonNegativeFloat = Field(0.01, description="Weight of the policy's entropy.")
    value_weight: NonNegativeFloat = Field(0.5, description="Weight of the value's error.")
    value_start: float = Field(
        0.0, description="What every value is, roughly, before anything is learned."
    )
    normalise: bool = Field(
        False,
        description="Bring the advantages of one gradient to mean 0 and standard deviation 1.",
    )
    weight_decay: NonNegativeFloat = Field(0.0, description="Decoupled weight decay.")
    gradient_norm: PositiveFloat | None = Field(
        0.5, description="Global norm to which gradients are clipped; null: never."
    )


class A3CConfig(ActorCriticConfig):
    """A3C (Mnih et al. 2016): every worker's gradient is applied as it arrives."""

    latent_noise: NonNegativeFloat = Field(
        0.0,
        description="Standard deviation of fresh Gaussian noise on latents with a standard normal "
        "prior, each time that they are learned on.",
    )
    augmentation_weight: NonNegativeFloat = Field(
        0.1,
        description="Weight of what policy and value change by on augmented frames (perception "
        "pixels+augmentation).",
    )


class UnrealConfig(ActorCriticConfig):
    """UNREAL (Jaderberg et al. 2017): A3C with auxiliary tasks on a replay of each worker."""

    learning_rate: PositiveFloat = Field(1e-3, description="Step size at the beginning.")
    replay: PositiveInt = Field(2_000, description="Steps that the replay of one worker holds.")
    pixel_control: NonNegativeFloat = Field(0.05, description="Weight of pixel control.")
    pixel_discount: Fraction = Field(0.9, description="Discount of pixel control per decision.")
    reward_prediction: NonNegativeFloat = Field(1.0, description="Weight of reward prediction.")
    value_replay: NonNegativeFloat = Field(1.0, description="Weight of value replay.")


class EpisodicControlConfig(Section):
    """Model-free episodic control (Blundell et al. 2016): one table for each action."""

    neighbours: PositiveInt = Field(
        11, description="Entries whose mean values what was never seen before."
    )
    capacity: PositiveInt = Field(
        100_000,
        description="Entries of one action; then the one written least recently gives way.",
    )
    discount: Fraction = Field(0.9, description="Discount per decision.")
    epsilon_start: Fraction = Field(1.0, description="Exploration at the first decision.")
    epsilon_end: Fraction = Field(0.2, description="Exploration after the schedule.")
    epsilon_fraction: Fraction = Field(
        0.3, description="Share of the decisions over which epsilon falls."
    )
    projection: PositiveInt = Field(
        64, description="Numbers that a random projection makes of a frame; latents are kept."
    )


class AugmentationConfig(Section):
    """How perception `pixels+augmentation` changes the looks of frames that are learned on."""

    convolution: Fraction = Field(
        0.5,
        description="Share of the frames that a random convolution changes; the others get new "
        "colours.",
    )
    brightness: Fraction = Field(0.4, description="Largest change of the brightness, a share.")
    contrast: Fraction = Field(0.4, description="Largest change of the contrast, a share.")
    saturation: Fraction = Field(0.4, description="Largest change of the saturation, a share.")
    hue: float = Field(
        0.5, ge=0.0, le=0.5, description="Largest turn of the hue, in turns of the colour circle."
    )


class AgentsConfig(Section):
    """Stage 2: one cell per algorithm, perception and seed."""

    algorithms: tuple[AlgorithmName, ...] = Field(
        ("dqn",), min_length=1, description="Algorithms to train."
    )
    perceptions: tuple[PerceptionName, ...] = Field(
        ("darla", "pixels", "factors", "random"),
        min_length=1,
        description="Perceptions to train on; own-NAME is a vision that `environment.plugin` "
        "registers.",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1, description="Seeds.")
    decisions: PositiveInt = Field(120_000, description="Decisions in D_S, over all environments.")
    chunk: PositiveInt = Field(
        32,
        description="Steps of every environment that a worker sends at once. a3c and unreal send "
        "gradients of n_step steps: there, after how many the rest is looked after.",
    )
    evaluate_every: PositiveInt = Field(
        20_000, description="Decisions between two evaluations on D_S."
    )
    evaluation_episodes: PositiveInt = Field(12, description="Episodes of one such evaluation.")
    checkpoint_every: PositiveInt = Field(20_000, description="Decisions between two checkpoints.")
    dqn: DQNConfig = DQNConfig()
    a3c: A3CConfig = A3CConfig()
    unreal: UnrealConfig = UnrealConfig()
    ec: EpisodicControlConfig = EpisodicControlConfig()
    augmentation: AugmentationConfig = AugmentationConfig()

    @model_validator(mode="after")
    def _names_each_once(self) -> AgentsConfig:
        for name in ("algorithms", "perceptions", "seeds"):
            values = getattr(self, name)
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"agents.{name} names {twice[0]} twice; name each once")
        return self


class TransferConfig(Section):
    """Stage 3: zero-shot scores."""

    episodes: PositiveInt = Field(
        100,
        description="Episodes per cell in D_S, and in the policy-ood and the encoder-ood targets "
        "of each suite; rounded up to as many for every domain.",
    )
    epsilon: Fraction = Field(
        0.05,
        description="Share of random actions while scoring, for every cell (Mnih et al. 2015).",
    )
    seed: int = Field(
        10_000, ge=0, description="First seed of the scored layouts, the same for every cell."
    )
    random_policy: bool = Field(True, description="Score the uniform random policy as the floor.")


class Config(Section):
    """One experiment: the three stages on one suite of domains."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$", description="Name of the run directory."
    )
    runs: PathText = Field("runs", description="Folder that holds the run directories.")
    suite: str = Field("lab", description="Suite of domains: D_U, D_S and D_T.")
    environment: EnvironmentConfig = EnvironmentConfig()
    ray: RayConfig = RayConfig()
    frames: FramesConfig = FramesConfig()
    vision: VisionConfig = VisionConfig()
    shapes: ShapesConfig = ShapesConfig()
    agents: AgentsConfig = AgentsConfig()
    transfer: TransferConfig = TransferConfig()


# -- loading ---------------------------------------------------------------------------------------

CONFIGS = "configs"
"""Folder of configurations known by name: in the working folder, then beside the packages."""

NOT_IDENTITY = (
    "runs",
    "ray.address",
    "ray.cpus_per_worker",
    "vision.pictures",
    "vision.gate.action",
    "vision.gate.object_error",
)
"""Keys that say where, by whom and whether the work is done, and change no result."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads an experiment from a YAML file and `key=value` words.

    Args:
        path: A file, or a name without a slash that is looked up in `configs/`, with or without
            `.yaml`.
        overrides: Words such as `vision.vae.beta=4` or `agents.seeds=[0,1]`; the values are YAML.

    Returns:
        The validated tree.

    Raises:
        ConfigError: the file is missing or not YAML, or any key or value is wrong; one line per
            fault.
    """
    values = _read_yaml(_find(str(path)))
    faults = [fault for word in overrides if (fault := _override(values, word))]
    return _validated(values, faults)


def config_paths() -> list[str]:
    """Returns the names of the configurations that `load_config` finds by name, sorted."""
    return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})


def to_yaml(config: Config) -> str:
    """Returns the whole tree as YAML that `load_config` reads back to an equal value."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=100)


def config_identity(config: Config) -> str:
    """Returns the SHA-256, in hexadecimal, of everything but `NOT_IDENTITY`."""
    return hashlib.sha256(json.dumps(_identity(config), sort_keys=True).encode()).hexdigest()


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the keys of the identity whose values differ, with the values in `a` and `b`."""
    left, right = _identity(a), _identity(b)
    return {key: (left[key], right[key]) for key in left if left[key] != right[key]}


@dataclass(frozen=True)
class SchemaRow:
    """One line of the reference manual: a key with what it may hold.

    Attributes:
        key: Full path, such as `vision.vae.beta`.
        allowed: Type and range in words.
        default: The value where the key is not given, as YAML; empty where it must be given.
        description: What it means.
    """

    key: str
    allowed: str
    default: str
    description: str


def schema() -> list[SchemaRow]:
    """Returns every key of the tree in its order."""
    rows = []
    for key, field, default in _leaves(Config, None, ""):
        shown = "" if default is PydanticUndefined else _shown(default)
        allowed = _allowed(field.annotation, field.metadata)
        rows.append(SchemaRow(key, allowed, shown, field.description or ""))
    return rows


def _identity(config: Config) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, _, value in _leaves(Config, config, "")
        if key not in NOT_IDENTITY
    }


def _leaves(
    section: type[Section], values: Section | None, prefix: str
) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Yields path, field and value of every leaf; without `values`, the defaults of each place."""
    for name, field in section.model_fields.items():
        value = field.default if values is None else getattr(values, name)
        if isinstance(value, Section):
            yield from _leaves(type(value), value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field, value


# -- YAML ------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2 (1e-4 is a number, on a word), no duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"duplicate key '{key.value}'", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `_Loader` would not read as words, and writes lists in one line."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _kind in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
        (
            "float",
            r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+.0123456789"),
        ),
        ("merge", r"<<", ["<"]),
    ):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value.replace("_", "")))
_Dumper.add_representer(
    list,
    lambda dumper, value: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", value, flow_style=True
    ),
)


def _folders() -> list[Path]:
    """Returns the folders that hold configurations by name, the nearer first."""
    return [Path(CONFIGS), Path(__file__).resolve().parent.parent / CONFIGS]


def _find(given: str) -> Path:
    path = Path(given)
    if os.path.isfile(given):
        return path
    if "/" not in given:
        name = given if given.endswith(".yaml") else f"{given}.yaml"
        for folder in _folders():
            if os.path.isfile(folder / name):
                return folder / name
    if os.path.isdir(given):
        raise ConfigError(f"configuration '{given}' is a folder; give a YAML file")
    names = config_paths()
    hint = did_you_mean(path.stem, names) or (
        f"; known by name: {', '.join(names)}" if names else ""
    )
    raise ConfigError(f"no configuration '{given}'{hint}")


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        values = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read '{path}': {(error.strerror or str(error)).lower()}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}'{_reason(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"'{path}' must hold keys and values, not {_given(values)}")
    return values


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader


def _reason(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f", line {mark.line + 1}" if mark else ""
    return f"{line}: {problem or error}"


def _override(values: dict[Any, Any], word: str) -> str | None:
    """Puts one `key=value` word into `values`; returns the fault where it cannot."""
    key, equals, text = word.partition("=")
    if not equals:
        return f"'{word}' is no setting; write key=value, such as agents.seeds=[0,1]"
    parts = key.split(".")
    if _field_at(parts) is None:
        return _unknown(key)
    try:
        value = _parse(text)
    except yaml.YAMLError as error:
        return f"the value of '{word}' is not YAML{_reason(error)}"
    target = values
    for part in parts[:-1]:
        below = target.get(part, {})
        if not isinstance(below, dict):
            return None  # the file's own fault, which validation reports
        target[part] = dict(below)  # a copy, since a YAML alias may share it with another section
        target = target[part]
    old = target.get(parts[-1])
    target[parts[-1]] = (
        {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    )
    return None


# -- messages --------------------------------------------------------------------------------------


def _validated(values: dict[Any, Any], faults: list[str]) -> Config:
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        inner = {details["loc"][:-1] for details in found if isinstance(details["loc"][-1], int)}
        faults = faults + [_fault(details) for details in found if details["loc"] not in inner]
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return config


def _fault(details: ErrorDetails) -> str:
    """Returns one line: what was given, what is allowed, what to type instead."""
    loc = details["loc"]
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    key = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc
    ).removeprefix(".")
    parts = [part for part in loc if isinstance(part, str)]
    field = _field_at(parts)
    if details["type"] in ("extra_forbidden", "invalid_key") or field is None:
        return _unknown(".".join(str(part) for part in loc))
    if details["type"] == "missing":
        return f"missing key '{key}': {field.description}"
    annotation, metadata = field.annotation, field.metadata
    if isinstance(loc[-1], int):
        annotation, metadata = _unwrapped(get_args(annotation)[0])
    given = details["input"]
    names = [value for value in get_args(annotation) if isinstance(value, str)]
    names += [name for item in metadata if isinstance(item, OneOf) for name in item.names]
    hint = did_you_mean(given, names) if isinstance(given, str) else ""
    return f"'{key}' must be {_allowed(annotation, metadata)}, not {_given(given)}{hint}"


def _unknown(key: str) -> str:
    paths = list(_paths(Config, ""))
    nearest = max(paths, key=lambda path: _likeness(key, path))
    hint = f" (did you mean '{nearest}'?)" if _likeness(key, nearest) > 0.6 else ""
    return f"unknown key '{key}'{hint}"


def _likeness(given: str, path: str) -> float:
    """Returns how near a path is, 0..1: by its last word, and a little by what leads there."""
    (above_given, _, last_given), (above, _, last) = given.rpartition("."), path.rpartition(".")
    ratio = difflib.SequenceMatcher(None, last_given, last).ratio()
    return 0.75 * ratio + 0.25 * difflib.SequenceMatcher(None, above_given, above).ratio()


def _paths(section: Any, prefix: str) -> Iterator[str]:
    """Yields the paths of all sections and leaves."""
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        if _is_section(field.annotation):
            yield from _paths(field.annotation, f"{prefix}{name}.")


def _field_at(parts: Sequence[str]) -> FieldInfo | None:
    section: Any = Config
    field = None
    for part in parts:
        if not _is_section(section) or part not in section.model_fields:
            return None
        field = section.model_fields[part]
        section = field.annotation
    return field


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _unwrapped(annotation: Any) -> tuple[Any, list[Any]]:
    """Splits `Annotated[int, Field(ge=1)]` into the type and its constraints."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    bare, *notes = get_args(annotation)
    return bare, [item for note in notes for item in getattr(note, "metadata", [note])]


def _allowed(annotation: Any, metadata: Sequence[Any]) -> str:
    """Returns type and range in words, such as `an integer >= 1`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _allowed(*_unwrapped(annotation))
    if origin is Literal:
        return _one_of(get_args(annotation))
    named = next((item for item in metadata if isinstance(item, OneOf)), None)
    if named is not None:
        return str(named)
    if origin is tuple:
        empty = "" if any(getattr(item, "min_length", 0) for item in metadata) else ", maybe empty"
        return f"a list{empty}, each {_allowed(get_args(annotation)[0], ())}"
    if origin in (Union, types.UnionType):
        kinds = [
            _allowed(kind, metadata) for kind in get_args(annotation) if kind is not type(None)
        ]
        return " or ".join([*kinds, "null"])
    if _is_section(annotation):
        return f"a section with the keys {', '.join(annotation.model_fields)}"
    words = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
    filled = annotation is str and any(getattr(item, "min_length", 0) for item in metadata)
    return words[annotation] + (" that is not empty" if filled else "") + _range(metadata)


def _number(bound: float) -> str:
    """Returns a bound in full: rounded, it would refuse what it says it allows."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _one_of(names: Iterable[Any]) -> str:
    return "one of " + ", ".join(f"'{name}'" for name in names)


def _range(metadata: Sequence[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {_number(getattr(item, name))}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    pattern = next((item.pattern for item in metadata if getattr(item, "pattern", None)), None)
    if pattern:
        bounds.append(f"that matches {pattern}")
    return f" {' and '.join(bounds)}" if bounds else ""


def _given(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a section"
    text = _shown(value)
    return f"the text '{value}'" if isinstance(value, str) else text


def _shown(value: Any) -> str:
    """Returns a value as it would be typed in YAML."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.dump(plain, Dumper=_Dumper, width=1000).removesuffix("...\n").strip()
