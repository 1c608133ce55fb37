from __future__ import annotations

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prelar_ray.errors import DataError
from prelar_ray.storage.arrow import ArrayFile, Compression, checksum, read_arrays, write_arrays

Arrays = dict[str, npt.NDArray[Any]]

DTYPES = [np.uint8, np.int64, np.float32, np.float64, np.bool_]


def example() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "action": rng.normal(size=(6, 2)).astype(np.float32),
        "reward": np.array([0, 1, np.nan, np.inf, -np.inf, -0.0]),
        "done": np.array([True, False, True, True, False, False]),
        "count": np.arange(6),
    }


def assert_same(read: Arrays, written: Arrays) -> None:
    assert list(read) == list(written)
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


@st.composite
def arrays(draw: st.DrawFn) -> Arrays:
    rows = draw(st.integers(1, 5))
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=4, unique=True))
    return {
        name: draw(
            hnp.arrays(
                draw(st.sampled_from(DTYPES)), (rows, *draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)))
            )
        )
        for name in names
    }


@settings(max_examples=60)
@given(arrays(), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3), st.booleans())
def test_arrays_and_metadata_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, written: Arrays, metadata: dict[str, str], copy: bool
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.arrow"
    write_arrays(path, written, metadata)
    read, read_metadata = read_arrays(path, copy=copy)
    assert_same(read, written)
    assert read_metadata == metadata


@settings(max_examples=40)
@given(
    st.integers(1, 100),
    st.sampled_from(["none", "lz4", "zstd"]),
    st.sampled_from(DTYPES),
    st.sampled_from([(), (3,), (4, 4, 3)]),
    st.data(),
)
def test_any_rows_of_a_file_are_read_however_it_is_compressed(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    compression: Compression,
    dtype: Any,
    shape: tuple[int, ...],
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.arrow"
    written = (np.arange(rows * int(np.prod(shape))).reshape(rows, *shape) % 7).astype(dtype)
    write_arrays(path, {"x": written, "y": np.arange(rows)}, {"k": "v"}, compression)
    file = ArrayFile(path)
    assert file.metadata == {"k": "v"}
    assert file.shapes == {"x": (written.shape, written.dtype), "y": ((rows,), np.dtype(np.int64))}
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    read = file.read("x", start, stop)
    assert_same({"x": read}, {"x": written[start:stop]})
    out = np.empty_like(written[start:stop])
    assert file.read("x", start, stop, out) is out
    assert_same({"x": out}, {"x": written[start:stop]})


def test_damage_to_a_compressed_file_is_an_error_or_other_rows_and_never_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    image = np.random.default_rng(5).integers(0, 4, (70, 8, 8, 3), dtype=np.uint8)
    for compression in ("lz4", "zstd"):
        write_arrays(path, {"image": image}, {}, compression)  # type: ignore[arg-type]
        content, refusals = path.read_bytes(), []
        for bit in np.random.default_rng(6).integers(len(content) * 8, size=150).tolist():
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                assert ArrayFile(path).read("image", 0, 70).shape == image.shape
            except DataError as error:
                refusals.append(str(error))
        assert 0 < len(refusals) < 150
        assert all(refusal.startswith(str(path)) for refusal in refusals)
        for length in (0, 8, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match=r"a\.arrow: truncated"):
                ArrayFile(path)


def test_file_info_describes_the_written_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    info = write_arrays(path, example(), {})
    assert info.bytes == path.stat().st_size
    assert info.sha256 == checksum(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_views_are_read_only_and_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {})
    read, _ = read_arrays(path)
    path.unlink()
    assert not any(array.flags.writeable or array.flags.owndata for array in read.values())
    assert_same(read, example())


def test_opening_many_files_keeps_no_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {})
    before = len(os.listdir("/proc/self/fd"))
    kept = [read_arrays(path)[0] for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(kept) == 20


def test_copies_own_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {})
    read, _ = read_arrays(path, copy=True)
    for array in read.values():
        assert array.flags.owndata
        array[:] = 0  # the file does not change
    assert_same(read_arrays(path)[0], example())


def test_arrays_that_are_not_contiguous_are_written_as_they_look(tmp_path: Path) -> None:
    image, done = example()["image"], np.array([True, False, False] * 4)
    written = {"flipped": image[:, ::-1], "transposed": image.transpose(0, 3, 2, 1), "strided": done[::-2]}
    write_arrays(tmp_path / "a.arrow", written, {})
    assert_same(read_arrays(tmp_path / "a.arrow")[0], written)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"x": np.zeros((3, 2), np.float16)}, "x is float16, expected one of bool, float32"),
        ({"x": np.zeros(3, ">f4")}, "x is >f4"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, "same number of rows"),
        ({}, "same number of rows"),
        ({"x": np.zeros((3, 0))}, r"x has shape \(3, 0\)"),
        ({"x": np.zeros((0, 3))}, r"x has shape \(0, 3\)"),
        ({"x": np.array(1.0)}, r"x has shape \(\)"),
    ],
)
def test_arrays_that_cannot_be_columns_are_refused(tmp_path: Path, bad: Arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_arrays(tmp_path / "a.arrow", bad, {})
    assert list(tmp_path.iterdir()) == []


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {"k": "v"})
    content = path.read_bytes()
    lengths = {0, 1, 8, len(content) - 1, *np.random.default_rng(1).integers(len(content), size=60).tolist()}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"a\.arrow: truncated"):
            read_arrays(path)


def test_flipped_bits_give_a_data_error_or_another_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    sha256 = write_arrays(path, example(), {"k": "v"}).sha256
    content = path.read_bytes()
    refusals = []
    for bit in np.random.default_rng(2).integers(len(content) * 8, size=400).tolist():
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert checksum(path) != sha256
        try:
            read_arrays(path, copy=True)
        except DataError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 400
    assert all(str(path) in refusal for refusal in refusals)


def test_a_buffer_shorter_than_its_rows_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, {"reward": np.zeros(1001, np.float32)}, {})
    content = path.read_bytes()
    length = (1001 * 4).to_bytes(8, "little")
    assert content.count(length) == 1
    path.write_bytes(content.replace(length, (8).to_bytes(8, "little")))
    with pytest.raises(DataError, match=r"a\.arrow: .*too small"):
        read_arrays(path)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.arrow"
    path.write_text("not an Arrow file " * 50)
    with pytest.raises(DataError, match=r"notes\.arrow: truncated, damaged or not an Arrow file"):
        read_arrays(path)
    table = pa.table({"text": ["a", "b"]})
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"notes\.arrow"):
        read_arrays(path)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
        writer.write_table(table)
    with pytest.raises(DataError, match="2 record batches, expected 1"):
        read_arrays(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.arrow: no such file"):
        read_arrays(tmp_path / "gone.arrow")
    with pytest.raises(DataError, match=r"gone\.arrow: cannot be read"):
        checksum(tmp_path / "gone.arrow")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Make real writes fail after ``size`` bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {"version": "old"})
    large = {"image": np.zeros((100, 64, 64, 3), np.uint8)}
    with largest_file(200_000), pytest.raises(DataError, match=r"a\.arrow.*GiB free"):
        write_arrays(path, large, {"version": "new"})
    assert list(tmp_path.iterdir()) == [path]
    read, metadata = read_arrays(path)
    assert_same(read, example())
    assert metadata == {"version": "old"}


def test_a_full_disk_noticed_at_the_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.arrow"
    write_arrays(path, example(), {"version": "old"})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"a\.arrow.*No space left on device.*GiB free"):
            write_arrays(path, {"x": np.zeros(3)}, {"version": "new"})
    assert list(tmp_path.iterdir()) == [path]
    assert read_arrays(path)[1] == {"version": "old"}


def test_a_file_appears_only_after_it_was_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.arrow"
    flush, present = os.fsync, []

    def watch(descriptor: int) -> None:
        present.append(path.exists())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_arrays(path, example(), {})
    assert present == [False, True]  # the file before its rename, the folder after
