"""File primitives: what is on disk is whole, or it is refused by name.

Every file is written to a temporary name beside it, flushed to the disk and renamed, so that a
killed process leaves the old file or the new one and never half of either. Tables grow line by line
instead (JSON Lines); there a killed process can leave one torn last line, which is cut off, kept
beside the table and never read as data. Nothing is pickled.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from darla.errors import CorruptFileError, MissingFileError, RunDirectoryError

if TYPE_CHECKING:
    import numpy as np
    import torch

ABANDONED = 3600.0
"""Seconds after which nobody is thought to write a temporary file any more."""
_DIGEST = "sha256"
_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@contextmanager
def _disk(verb: str, path: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one line that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError(f"cannot {verb} '{path}': there is no such file") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunDirectoryError(f"cannot {verb} '{path}': {reason}") from error


def _clear(path: Path) -> None:
    """Deletes what processes that were killed began to write of a file."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


def _replace(path: Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` write a temporary file beside `path`, flushes it and renames it to `path`."""
    with _disk("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        _clear(path)
        try:
            fill(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are not there; errors as in `write_bytes`."""
    with _disk("write", path):
        path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole, or leaves the old one.

    Raises:
        RunDirectoryError: no permission, no space, or a part of the path is not a folder.
    """
    _replace(Path(path), lambda temporary: temporary.write_bytes(data))


def write_file(path: str | Path, fill: Callable[[Path], object]) -> None:
    """Lets `fill` write to a temporary path what becomes the file; errors as in `write_bytes`."""
    _replace(Path(path), fill)


def read_bytes(path: str | Path) -> bytes:
    """Reads a file whole.

    Raises:
        MissingFileError: there is no such file.
        RunDirectoryError: it cannot be read.
    """
    path = Path(path)
    with _disk("read", path):
        return path.read_bytes()


def write_text(path: str | Path, text: str) -> None:
    """Writes a UTF-8 text file whole; errors as in `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Writes indented JSON; numbers that are not finite become null. Errors: see `write_bytes`."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads one JSON file.

    Raises:
        MissingFileError: there is no such file.
        CorruptFileError: it is not JSON, for example because it was truncated.
        RunDirectoryError: it cannot be read.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except ValueError as error:
        raise CorruptFileError(f"'{path}' is not valid JSON ({error})") from error


def append_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends one line of JSON per row, in a single write that is flushed to the disk.

    A torn last line that an earlier, killed process left is cut off first (see `read_jsonl`).

    Args:
        path: The table; created with its folders when it is not there.
        rows: Mappings of JSON values; NumPy scalars are taken as numbers, numbers that are not
            finite become null.

    Raises:
        RunDirectoryError: no permission, no space, or a part of the path is not a folder.
        CorruptFileError: the table holds something else than JSON Lines in its last line but one.
    """
    path = Path(path)
    lines = _lines(rows).encode()
    with _disk("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            whole = _ends_line(file)
        if not whole:
            read_jsonl(path, repair=True)
        with path.open("ab", buffering=0) as file:
            written = file.write(lines)
            if written != len(lines):
                raise OSError(None, "no space left on device")
            os.fsync(file.fileno())


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table whole, in place of the old one; rows as in `append_jsonl`.

    Raises:
        RunDirectoryError: no permission, no space, or a part of the path is not a folder.
    """
    write_text(path, _lines(rows))


def read_jsonl(path: str | Path, repair: bool = False) -> list[dict[str, Any]]:
    """Reads a table of JSON objects, one a line.

    Args:
        path: The table.
        repair: Whether a torn last line, as a killed process leaves it, is cut off the file. The
            cut text is kept in `<name>.torn`.

    Raises:
        MissingFileError: there is no such file.
        CorruptFileError: a line is not a JSON object; with `repair`, a line before the last one.
        RunDirectoryError: the file cannot be read, or not be repaired.
    """
    path = Path(path)
    data = read_bytes(path)
    rows: list[dict[str, Any]] = []
    offset = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        row = _parse_object(line)
        if row is not None:
            rows.append(row)
            offset += len(line)
            continue
        torn = offset + len(line) == len(data)
        if torn and repair:
            _cut(path, data, offset)
            return rows
        remedy = "; repeat the command that wrote it, which cuts the line off" if torn else ""
        raise CorruptFileError(f"'{path}', line {number}, is not a JSON object{remedy}")
    if repair and data and not data.endswith(b"\n"):
        write_bytes(path, data + b"\n")
    return rows


def save_tensors(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor | np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes named tensors in the safetensors format, with a checksum in the metadata.

    Equal tensors and metadata give equal files, which safetensors' own writer does not promise.

    Args:
        path: The file.
        tensors: Tensors or arrays of any shape and of any dtype of `_DTYPES`.
        metadata: Further text to keep beside them; the key `sha256` is taken.

    Raises:
        RunDirectoryError: no permission, no space, or a part of the path is not a folder.
    """
    import torch

    plain = {
        name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()
    }
    order = sorted(plain, key=lambda name: (-plain[name].element_size(), name))
    told = metadata or {}
    described = {**told, _DIGEST: _digest(plain, told)}
    header: dict[str, Any] = {"__metadata__": dict(sorted(described.items()))}
    offset = 0
    for name in order:
        tensor = plain[name]
        header[name] = {
            "dtype": _DTYPES[str(tensor.dtype).removeprefix("torch.")],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for name in order:
                file.write(_bytes(plain[name]))

    _replace(Path(path), fill)


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Reads what `save_tensors` wrote and verifies its checksum.

    Returns:
        The tensors, on the CPU, and the metadata.

    Raises:
        MissingFileError: there is no such file.
        CorruptFileError: the file is truncated, altered or of another format.
        RunDirectoryError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with _disk("read", path):
        path.open("rb").close()
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = dict(file.metadata() or {})
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise CorruptFileError(f"'{path}' is truncated or no tensor file ({error})") from error
    if metadata.pop(_DIGEST, None) != _digest(tensors, metadata):
        raise CorruptFileError(
            f"'{path}' was altered: it does not have the checksum it was written with"
        )
    return tensors, metadata


def map_tensor(path: str | Path, name: str) -> np.ndarray:
    """Maps a tensor of a file that `save_tensors` wrote into memory, read-only.

    Nothing is read but the header, so that no checksum is verified; `load_tensors` does that.

    Raises:
        MissingFileError: there is no such file.
        CorruptFileError: the file is truncated, of another format, or has no such tensor.
        RunDirectoryError: it cannot be read.
    """
    import numpy as np

    path = Path(path)
    with _disk("read", path):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = int.from_bytes(file.read(8), "little")
            text = file.read(min(head, size))
    try:
        entry = json.loads(text)[name]
        kind = next(key for key, value in _DTYPES.items() if value == entry["dtype"])
        first, last = entry["data_offsets"]
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise CorruptFileError(f"'{path}' is no file with a tensor '{name}'") from error
    if 8 + head + last > size:
        raise CorruptFileError(f"'{path}' is truncated")
    return np.memmap(path, kind, "r", 8 + head + first, tuple(entry["shape"]))


def sha256_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits; errors as in `read_json`."""
    path = Path(path)
    with _disk("read", path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    """Returns `value` in JSON's own types: NumPy as numbers and lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _ends_line(file: IO[bytes]) -> bool:
    """Whether a table is empty or ends with a whole line."""
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _cut(path: Path, data: bytes, offset: int) -> None:
    """Shortens a table to `offset` bytes and keeps the rest in `<name>.torn`."""
    torn = path.with_name(f"{path.name}.torn")
    with _disk("write", torn), torn.open("ab") as file:
        file.write(data[offset:].rstrip(b"\n") + b"\n")
        os.fsync(file.fileno())
    write_bytes(path, data[:offset])


def _digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Returns the SHA-256 over the metadata, and names, dtypes, shapes and bytes in their order."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Returns the bytes of a contiguous tensor without copying them."""
    import torch

    if not tensor.numel():  # its strides may be such as no view of bytes can have
        return memoryview(b"")
    return tensor.reshape(-1).view(torch.uint8).numpy().data
