"""Files of tensors from anywhere: what states more than it has is refused before memory is asked for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prelar_ray.checkpoint import tensors
from prelar_ray.checkpoint.tensors import UnsafeFile, UnusableFile, load_tensors


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("new", [True, False])
def test_dense_tensors_in_containers_are_read_as_they_were_saved(tmp_path: Path, new: bool) -> None:
    weight = torch.randn(3, 4)
    content = {
        "a": {"b": [weight, torch.tensor(1)]},
        "same": weight,
        "view": weight.t(),
        "none": torch.empty(0),
    }
    found = load_tensors(saved(tmp_path / "state.pt", content, _use_new_zipfile_serialization=new))
    assert found["a"]["b"][0].equal(weight)
    assert found["view"].equal(weight.t())
    assert found["none"].numel() == 0


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.empty(10**10, device="meta"), "a.b is on the device meta, without numbers"),
        (lambda: torch.ones(2, 2).to_sparse(), "a.b is sparse_coo, expected a dense tensor"),
        (lambda: torch.ones(2, 2).to_sparse_csr(), "a.b is sparse_csr, expected a dense tensor"),
        (lambda: torch.ones(1).expand(10**10), r"a.b of shape \(10000000000,\) has 40,000,000,000 bytes"),
        (lambda: torch.ones(64, 1).expand(64, 10**9), r"has 256,000,000,000 bytes, of which 256 are stored"),
        (lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8), "a.b is quantised"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_without_numbers_of_its_own_is_refused(
    tmp_path: Path, make: Callable[[], torch.Tensor], reason: str, new: bool
) -> None:
    path = saved(tmp_path / "state.pt", {"a": {"b": make()}}, _use_new_zipfile_serialization=new)
    with pytest.raises(UnusableFile, match=reason if new else f"{reason}|it states a size of"):
        load_tensors(path)


def test_an_archive_that_is_compressed_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(10**6)}, buffer)
    with zipfile.ZipFile(buffer) as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(UnusableFile, match="is compressed, which PyTorch does not do"):
        load_tensors(tmp_path / "bomb.pt")


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The directory of an archive may name the same megabyte a thousand times."""
    path = saved(tmp_path / "state.pt", {"a": torch.zeros(10**5)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, large = archive.start_dir, max(archive.infolist(), key=lambda entry: entry.file_size)
        count, size = len(archive.infolist()), large.file_size
    end = content.rfind(b"PK\x05\x06")
    name = content.index(large.filename.encode(), start)
    record = content[name - 46 : content.find(b"PK\x01\x02", name) if b"PK\x01\x02" in content[name:] else end]
    tail = content[end:]
    counts = (count + 3).to_bytes(2, "little") * 2
    directory = content[start:end].partition(b"PK\x06\x06")[0] + 3 * record
    tail = tail[:8] + counts + len(directory).to_bytes(4, "little") + start.to_bytes(4, "little") + b"\0\0"
    path.write_bytes(content[:start] + directory + tail)
    with pytest.raises(UnusableFile, match="entries state"):
        load_tensors(path)
    assert size > 10**5


def test_a_file_of_before_archives_that_states_a_size_it_has_not_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "state.pt", {"a": torch.zeros(1000)}, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"M\xe8\x03" in content  # 1000: of the storage, and of the shape
    path.write_bytes(content.replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"))
    with pytest.raises(UnusableFile, match="states a size of 2,147,483,647, more than the"):
        load_tensors(path)


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "state.pt", {"a": torch.zeros(1000)})
    memory = type("Memory", (), {"available": 1000})
    monkeypatch.setattr(tensors.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(UnusableFile, match="do not fit into"):
        load_tensors(path)


def test_many_names_for_the_same_numbers_are_refused(tmp_path: Path) -> None:
    weight = torch.zeros(10**5)
    load_tensors(saved(tmp_path / "two.pt", {"a": weight, "b": weight}))
    with pytest.raises(UnusableFile, match="more than 4 times"):
        load_tensors(saved(tmp_path / "many.pt", {str(number): weight for number in range(10)}))


def test_containers_that_are_too_deep_are_refused(tmp_path: Path) -> None:
    content: Any = torch.zeros(1)
    for _ in range(40):
        content = [content]
    with pytest.raises(UnusableFile, match="containers are more than 32 deep"):
        load_tensors(saved(tmp_path / "deep.pt", content))


def test_other_objects_are_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFile, match=r"Path\) other than tensors .* nothing of it was run"):
        load_tensors(saved(tmp_path / "state.pt", {"a": tmp_path}))


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 500, 4000])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, cut: int) -> None:
    path = saved(tmp_path / "state.pt", {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnusableFile):
        load_tensors(path)
