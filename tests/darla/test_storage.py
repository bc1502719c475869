import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from darla import storage
from darla.errors import CorruptFileError, MissingFileError, RunDirectoryError
from darla.storage import (
    _DTYPES,
    append_jsonl,
    load_tensors,
    map_tensor,
    read_json,
    read_jsonl,
    save_tensors,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)

READERS = (read_json, read_jsonl, load_tensors, sha256_file)


@pytest.fixture
def below_a_file(tmp_path: Path) -> Path:
    """A path that nobody may write, root included."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "x"


def test_json_goes_to_the_disk_and_back_with_numpy_and_without_nan(tmp_path: Path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"n": np.int64(3), "xs": np.arange(2.0), "nan": float("nan"), "t": (1, None)})
    assert read_json(path) == {"n": 3, "xs": [0.0, 1.0], "nan": None, "t": [1, None]}
    assert [file.name for file in path.parent.iterdir()] == ["b.json"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunDirectoryError, match=r"cannot write '.*a\.txt': no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, b"x"),
        lambda path: append_jsonl(path, [{"a": 1}]),
        lambda path: save_tensors(path, {"x": torch.zeros(2)}, {}),
    ],
)
def test_a_path_that_cannot_be_written_is_one_clear_line(write, below_a_file: Path):
    with pytest.raises(RunDirectoryError) as caught:
        write(below_a_file)
    assert str(below_a_file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_is_named(read, tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"nothing\.x"):
        read(tmp_path / "nothing.x")


@pytest.mark.parametrize("read", READERS)
def test_a_folder_is_no_file(read, tmp_path: Path):
    with pytest.raises(RunDirectoryError, match="is a directory"):
        read(tmp_path)


def test_truncated_json_is_named(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"a": list(range(100))})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CorruptFileError, match=r"a\.json"):
        read_json(path)


def test_rows_are_appended(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"b": np.float32(0.5)}])
    append_jsonl(path, [])
    append_jsonl(path, [{"loss": float("inf")}])
    assert read_jsonl(path) == [{"a": 1}, {"b": 0.5}, {"loss": None}]


@pytest.mark.parametrize("kept", range(1, len('{"a": 2}')))
def test_a_torn_last_line_is_refused_or_cut_off_and_kept_aside(tmp_path: Path, kept: int):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}])
    whole = path.read_bytes()
    torn = b'{"a": 2}'[:kept]
    path.write_bytes(whole + torn)

    with pytest.raises(CorruptFileError, match=r"rows\.jsonl', line 2"):
        read_jsonl(path)
    assert path.read_bytes() == whole + torn
    assert read_jsonl(path, repair=True) == [{"a": 1}]
    assert path.read_bytes() == whole
    assert (tmp_path / "rows.jsonl.torn").read_bytes() == torn + b"\n"


def test_a_row_that_lacks_only_its_newline_is_whole(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    append_jsonl(path, [{"a": 3}])
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert not (tmp_path / "rows.jsonl.torn").exists()


def test_appending_after_a_torn_line_loses_no_whole_row(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a"')
    append_jsonl(path, [{"a": 3}])
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n", b"\n"])
def test_a_damaged_line_in_the_middle_is_never_repaired(tmp_path: Path, line: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'{"a": 2}\n')
    with pytest.raises(CorruptFileError, match="line 2"):
        read_jsonl(path, repair=True)
    assert path.read_bytes() == b'{"a": 1}\n' + line + b'{"a": 2}\n'


def test_tensors_go_to_the_disk_and_back(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    tensors = {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "bool": np.array([True, False]),
        "scalar": torch.tensor(3),
        "empty": np.zeros((0, 5), np.float32),
        **{f"like {name}": torch.ones(3, dtype=getattr(torch, name)) for name in _DTYPES},
    }
    save_tensors(path, tensors, {"step": "7"})
    loaded, metadata = load_tensors(path)
    assert metadata == {"step": "7"}
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = torch.as_tensor(tensor)
        assert loaded[name].dtype == expected.dtype
        assert torch.equal(loaded[name], expected)


def test_an_empty_array_of_any_strides_goes_to_the_disk(tmp_path: Path):
    save_tensors(tmp_path / "x", {"none": torch.empty_strided((0,), (0,))})
    assert load_tensors(tmp_path / "x")[0]["none"].shape == (0,)


def test_tensors_may_be_read_by_whom_other_files_may(tmp_path: Path):
    write_bytes(tmp_path / "bytes", b"x")
    save_tensors(tmp_path / "tensors", {"x": torch.zeros(1)}, {})
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "bytes").stat().st_mode


def test_equal_tensors_give_equal_files(tmp_path: Path):
    tensors = {"x": torch.arange(5), "y": torch.ones(2)}
    metadata = {key: key for key in "abcdefgh"}
    save_tensors(tmp_path / "a", tensors, metadata)
    save_tensors(
        tmp_path / "b",
        dict(reversed(tensors.items())),
        dict(reversed(metadata.items())),
    )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_truncated_tensors_are_named(tmp_path: Path, keep: int):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.arange(100)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFileError, match=r"x\.safetensors"):
        load_tensors(path)


def test_one_flipped_bit_is_found(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.arange(100)}, {})
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="checksum"):
        load_tensors(path)


def test_what_is_told_beside_the_tensors_is_checked_too(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"x": torch.arange(100)}, {"step": "50"})
    path.write_bytes(path.read_bytes().replace(b'"step": "50"', b'"step": "90"'))
    with pytest.raises(CorruptFileError, match="altered"):
        load_tensors(path)


def test_a_tensor_file_of_somebody_else_is_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CorruptFileError, match="checksum"):
        load_tensors(tmp_path / "x.safetensors")


def test_a_mapped_tensor_is_the_one_that_was_saved(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    saved = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(7, dtype=np.uint8)}
    save_tensors(path, saved)
    for name, array in saved.items():
        mapped = map_tensor(path, name)
        assert mapped.dtype == array.dtype and (mapped == array).all()
        assert not mapped.flags.writeable
    with pytest.raises(CorruptFileError, match=r"t\.safetensors' is no file with a tensor 'c'"):
        map_tensor(path, "c")
    with pytest.raises(MissingFileError):
        map_tensor(tmp_path / "gone.safetensors", "a")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptFileError, match="truncated"):
        map_tensor(path, "a")
    path.write_bytes(b"nonsense")
    with pytest.raises(CorruptFileError, match="no file with a tensor"):
        map_tensor(path, "a")


def test_sha256_file(tmp_path: Path):
    write_bytes(tmp_path / "x", b"abc")
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_kill_9_leaves_whole_files(tmp_path: Path):
    program = (
        "import sys; from pathlib import Path; from darla.storage import *\n"
        "folder = Path(sys.argv[1])\n"
        "for n in range(10**6):\n"
        "    write_json(folder / 'state.json', {'n': n, 'padding': 'x' * 50_000})\n"
        "    append_jsonl(folder / 'rows.jsonl', [{'n': n, 'padding': 'x' * 5_000}])\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "rows.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    rows = read_jsonl(tmp_path / "rows.jsonl", repair=True)
    assert [row["n"] for row in rows] == list(range(len(rows)))
    assert read_json(tmp_path / "state.json")["n"] in (len(rows) - 1, len(rows))


def test_two_writers_of_one_file_leave_it_whole_at_all_times(tmp_path: Path):
    program = (
        "import sys, time; from darla.storage import *\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    write_json(sys.argv[1], {'who': sys.argv[2] * int(sys.argv[3])})\n"
    )
    path = tmp_path / "state.json"
    write_json(path, {"who": "a"})
    words = [("a", "30_000"), ("b", "7")]
    writers = [
        subprocess.Popen([sys.executable, "-c", program, str(path), *each]) for each in words
    ]
    while any(writer.poll() is None for writer in writers):
        assert len(set(read_json(path)["who"])) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_what_killed_processes_left_is_deleted_after_an_hour(tmp_path: Path):
    old, new = (tmp_path / f".state.json.{number}-ab.tmp" for number in (1, 2))
    other = tmp_path / ".state.json2.3-ab.tmp"
    for file in (old, new, other):
        file.write_text("{")
    for file in (old, other):
        os.utime(file, (time.time() - 2 * storage.ABANDONED,) * 2)
    write_json(tmp_path / "state.json", {})
    assert {file.name for file in tmp_path.iterdir()} == {"state.json", new.name, other.name}


@pytest.mark.parametrize("missing", [1, 7, 8, 20])
def test_a_truncated_file_is_not_mapped(tmp_path, missing):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": np.arange(12, dtype=np.float32)})
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(CorruptFileError, match="truncated"):
        map_tensor(path, "a")


def test_torn_lines_are_kept_one_after_the_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    for torn in (b'{"a"', b'{"b"'):
        path.write_bytes(b'{"a": 1}\n' + torn)
        read_jsonl(path, repair=True)
    assert (tmp_path / "rows.jsonl.torn").read_bytes() == b'{"a"\n{"b"\n'
