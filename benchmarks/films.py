"""Recorded episodes in other formats: GIF, MP4, and Rerun's RRD."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.episodes import Recording
from benchmarks.replay import FPS, write_page
from darla.errors import ConfigError, DependencyError, did_you_mean
from darla.storage import write_bytes, write_file

PACKAGES = {
    "mp4": ("imageio_ffmpeg", "pip install 'darla[video]'"),
    "rrd": ("rerun", "pip install 'darla[rerun]'"),
}
"""What a format needs beside the project's own dependencies, and what to type for it."""
HEIGHT, GAP, LINES = 256, 8, 40
PAPER, INK, SOFT = (21, 23, 26), (232, 232, 227), (160, 166, 173)


def choose_writer(name: str) -> Callable[[Sequence[Recording], Path], None]:
    """Returns what writes recordings in a format, before anything is played for it.

    Raises:
        ConfigError: There is no such format.
        DependencyError: It needs a package that is not installed.
    """
    writers = {"html": write_page, "gif": write_gif, "mp4": write_mp4, "rrd": write_rrd}
    if name not in writers:
        raise ConfigError(
            f"--format is '{name}', allowed is one of {', '.join(writers)}"
            f"{did_you_mean(name, writers)}"
        )
    if name in PACKAGES:
        package, remedy = PACKAGES[name]
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DependencyError(
                f"--format {name} needs the package {package}; type {remedy}"
            ) from error
    return writers[name]


def pictures(recordings: Sequence[Recording]) -> Iterator[np.ndarray]:
    """Draws every step: lanes side by side, each with its frame and what the vision makes of it.

    A lane that is over holds its last frame.

    Returns:
        uint8 [height, width, 3] per step of the longest lane; height and width are even.
    """
    lanes = [_Lane(each) for each in recordings]
    width = sum(lane.width for lane in lanes) + GAP * (len(lanes) - 1)
    for step in range(max(lane.length for lane in lanes)):
        sheet = Image.new("RGB", (width + width % 2, HEIGHT + LINES), PAPER)
        left = 0
        for lane in lanes:
            lane.draw(sheet, left, step)
            left += lane.width + GAP
        yield np.asarray(sheet)


def write_gif(recordings: Sequence[Recording], output: Path) -> None:
    """Writes an animated GIF that plays in real time and repeats."""
    first, *others = [Image.fromarray(picture) for picture in pictures(recordings)]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=round(1000 / _fps(recordings)),
        loop=0,
    )
    write_bytes(output, buffer.getvalue())


def write_mp4(recordings: Sequence[Recording], output: Path) -> None:
    """Writes a film in H.264 that plays in real time."""
    from imageio_ffmpeg import write_frames

    def fill(path: Path) -> None:
        steps = pictures(recordings)
        first = next(steps)
        size = first.shape[1], first.shape[0]
        film = write_frames(
            str(path),
            size,
            fps=_fps(recordings),
            macro_block_size=2,
            output_params=["-f", "mp4"],
        )
        film.send(None)
        for picture in (first, *steps):
            film.send(np.ascontiguousarray(picture))
        film.close()

    write_file(output, fill)


def write_rrd(recordings: Sequence[Recording], output: Path) -> None:
    """Writes a recording for the Rerun viewer: `lane-<n>/<array>` along the timeline `step`."""
    import rerun

    shown: dict[str, Callable[[np.ndarray], Any]] = {
        "frames": rerun.Image,
        "reconstructions": rerun.Image,
        "preferences": rerun.BarChart,
        "latents": rerun.BarChart,
        "rewards": rerun.Scalars,
        "returns": rerun.Scalars,
        "actions": rerun.BarChart,
    }

    def fill(path: Path) -> None:
        with rerun.RecordingStream("darla", recording_id=output.stem) as stream:
            stream.save(path)
            for number, recording in enumerate(recordings, start=1):
                lane = f"lane-{number}"
                text = recording.facts.model_dump_json(indent=2, by_alias=True)
                stream.log(lane, rerun.TextDocument(text), static=True)
                for step in range(recording.facts.outcome.length):
                    stream.set_time("step", sequence=step)
                    for name, array in recording.arrays.items():
                        stream.log(f"{lane}/{name}", shown[name](array[step]))
            stream.flush()
            stream.disconnect()

    write_file(output, fill)


class _Lane:
    def __init__(self, recording: Recording) -> None:
        self.facts, self.arrays = recording.facts, recording.arrays
        self.length = self.facts.outcome.length
        names = [name for name in ("frames", "reconstructions") if name in self.arrays]
        self.rows = [self.arrays[name] for name in names]
        height, width = self.rows[0].shape[1:3]
        self.size = round(HEIGHT * width / height), HEIGHT
        self.width = len(names) * (self.size[0] + GAP) - GAP

    def draw(self, sheet: Image.Image, left: int, step: int) -> None:
        """Draws the lane at a step, or at its last one, from `left` on."""
        t = min(step, self.length - 1)
        for place, row in enumerate(self.rows):
            tile = Image.fromarray(row[t]).resize(self.size, Image.Resampling.NEAREST)
            sheet.paste(tile, (left + place * (self.size[0] + GAP), 0))
        text = ImageDraw.Draw(sheet)
        over = f", over after step {self.length}" if step > t else ""
        text.text((left + 4, HEIGHT + 5), f"{self.facts.domain}{over}", fill=INK)
        reward, total = self.arrays["rewards"][t], self.arrays["returns"][t]
        words = f"step {step + 1}   reward {reward:+g}   return {total:g}"
        text.text((left + 4, HEIGHT + 21), words, fill=SOFT)


def _fps(recordings: Sequence[Recording]) -> float:
    return recordings[0].facts.fps or FPS
