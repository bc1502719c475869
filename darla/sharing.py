"""What a trial of a sweep need not make again: frames and weights that another one has made.

Stage 1 follows from its settings alone, up to the bits, and most trials of a sweep have some of
them in common: over a grid of beta the frames and the denoising autoencoder are the same, over a
grid of the policies' settings the whole vision is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from darla.config import Config, differences
from darla.rundir import RunDirectory
from darla.storage import write_file

LATER = ("name", "shapes", "agents", "transfer")
"""Keys that no part of stage 1 depends on."""
NOT_OF_THE_DAE = (*LATER, "vision.vae", "vision.entangled", "vision.beta_vae")
NOT_OF_THE_FRAMES = (*LATER, "vision")


def share_stage_one(config: Config, others: Sequence[Config]) -> None:
    """Links into a run directory what other runs have made from the same settings.

    The run directory is made where it is not there. What it has, or has begun, stays; what cannot
    be linked is copied. Of a model that is taken, `run.json` says from which run.

    Args:
        config: The run.
        others: Runs on the same storage, whether they have started or not.
    """
    from darla.vision.pretrain import models_of, stage_of, weights_file
    from darla.vision.training import checkpoint_path

    run = RunDirectory.open(config)
    left = [name for name in models_of(config) if not weights_file(run, name).exists()]
    left = [name for name in left if not checkpoint_path(run.vision, stage_of(name)).exists()]
    for other in others:
        lender = RunDirectory(Path(other.runs) / other.name, other)
        if not lender.belongs():
            continue  # what lies there is of another configuration, whose name it has
        changed = differences(config, other)
        if _only(changed, NOT_OF_THE_FRAMES):
            for shard in lender.frames.glob("*.safetensors"):
                _taken(shard, run.frames / shard.name)
        for name in left:
            same = _only(changed, NOT_OF_THE_DAE if name == "dae" else LATER)
            if same and _taken(weights_file(lender, name), weights_file(run, name)):
                run.start(stage_of(name))
                run.finish(stage_of(name), taken_from=other.name)


def _only(changed: Iterable[str], sections: Sequence[str]) -> bool:
    """Whether all keys that differ are within some sections."""
    return all(any(f"{key}.".startswith(f"{name}.") for name in sections) for key in changed)


def _taken(file: Path, place: Path) -> bool:
    """Links a finished file, which nobody writes again, or copies it; true if that was new."""
    if place.exists() or not file.exists():
        return False
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, place)
    except OSError:
        write_file(place, lambda temporary: shutil.copyfile(file, temporary))
    return True
