from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.crc32c import crc32c
from prelar_ray.sources.rlds import Rlds
from prelar_ray.sources.source import Choice
from prelar_ray.sources.tfrecord import Example, count_records, masked_crc, records
from tests.sources.reading import POINTER, plain, read

Values = Sequence[bytes] | Sequence[float] | Sequence[int]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, Values], packed: bool = True) -> bytes:
    """A tf.train.Example as TensorFlow writes it."""
    entries = []
    for key, values in features.items():
        if not values or isinstance(values[0], bytes):
            feature = message(1, b"".join(message(1, bytes(value)) for value in values))  # type: ignore[arg-type]
        elif isinstance(values[0], float):
            numbers = [struct.pack("<f", value) for value in values]
            feature = message(
                2, message(1, b"".join(numbers)) if packed else b"".join(varint(1 << 3 | 5) + n for n in numbers)
            )
        else:
            feature = message(3, message(1, b"".join(varint(int(value)) for value in values)))
        entries.append(message(1, message(1, key.encode()) + message(2, feature)))
    return message(1, b"".join(entries))


def framed(*contents: bytes) -> bytes:
    parts = []
    for content in contents:
        length = struct.pack("<Q", len(content))
        parts += [length, struct.pack("<I", masked_crc(length)), content, struct.pack("<I", masked_crc(content))]
    return b"".join(parts)


def encoded(pixels: np.ndarray, format: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def steps(levels: Sequence[int], camera: str = "image", task: str = "", **more: Values) -> dict[str, Values]:
    """The features of an episode: its action in row t is (t + 1, 0)."""
    rows = len(levels)
    return {
        f"steps/observation/{camera}": [encoded(frame) for frame in plain(list(levels), 48, 32)],
        "steps/action": [float(value) for row in range(rows) for value in (row + 1, 0)],
        "steps/is_first": [1] + [0] * (rows - 1),
        "steps/language_instruction": [task.encode()] * rows,
        **more,
    }


def dataset(
    folder: Path, *shards: Sequence[Mapping[str, Values]], name: str = "bridge", depth: str = "", of: int | None = None
) -> Path:
    """A version folder with the given files of split "train"."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, episodes in enumerate(shards):
        path = folder / f"{name}-train.tfrecord-{number:05d}-of-{of or len(shards):05d}"
        path.write_bytes(framed(*map(example, episodes)))
    lengths = [str(len(episodes)) for episodes in shards]
    about = {"name": name, "version": "0.1.0", "splits": [{"name": "train", "shardLengths": lengths}]}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    images: dict[str, Any] = {"image": {"image": {"dtype": "uint8"}}}
    if depth:
        images[depth] = {"image": {"dtype": "float32"}}
    observation = {"observation": {"featuresDict": {"features": images}}}
    inner = {"sequence": {"feature": {"featuresDict": {"features": observation}}}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": {"steps": inner}}}))
    return folder


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_that_of_the_standard(data: bytes, checksum: int):
    assert crc32c(data) == checksum


@given(st.binary(max_size=4000))
def test_lanes_give_the_checksum_of_single_bytes(data: bytes):
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    assert crc32c(data) == state ^ 0xFFFFFFFF


@given(contents=st.lists(st.binary(max_size=700), min_size=1, max_size=5))
def test_records_are_read_as_they_were_written(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("records") / "file"
    path.write_bytes(framed(*contents))
    assert [data for _, data in records(path)] == contents
    assert count_records(path) == len(contents)
    assert list(records(path, {len(contents) - 1})) == [(len(contents) - 1, contents[-1])]


@given(
    features=st.dictionaries(
        st.text(max_size=8),
        st.lists(st.binary(max_size=9), max_size=4)
        | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
        max_size=4,
    ),
    packed=st.booleans(),
)
def test_an_example_has_the_values_that_were_written(features: dict[str, Any], packed: bool):
    found = Example(example(features, packed), "here")
    assert found.keys() == sorted(features)
    for key, values in features.items():
        is_bytes = not values or isinstance(values[0], bytes)
        assert [bytes(value) for value in found.byte_strings(key)] == (values if is_bytes else [])
        assert found.floats(key).tolist() == ([] if is_bytes else values)


@given(st.binary(max_size=60) | st.binary(max_size=20).map(lambda data: example({"a": [data]})[:-1] + b"\xff"))
def test_random_bytes_are_an_example_or_a_named_error(data: bytes):
    with suppress(DataError):
        found = Example(data, "here")
        for key in found.keys():
            found.byte_strings(key)
            found.floats(key)


def test_files_are_read_in_order_one_record_an_episode(tmp_path: Path):
    path = dataset(tmp_path / "bridge/0.1.0", [steps([10, 20], task="open it"), steps([30])], [steps([40, 50, 60])])
    found = read(Rlds, path)
    assert [episode.levels for episode in found] == [[10, 20], [30], [40, 50, 60]]
    assert [episode.name for episode in found] == ["open it", "bridge", "bridge"]
    assert found[0].times == [None, None]
    assert len(Rlds(path, Choice()).items()) == 2


def test_the_only_version_is_found_and_several_are_listed(tmp_path: Path):
    dataset(tmp_path / "0.1.0", [steps([10])])
    assert Rlds.recognise(tmp_path)
    assert read(Rlds, tmp_path)[0].levels == [10]
    dataset(tmp_path / "1.0.0", [steps([20])])
    with pytest.raises(ConfigError, match=r"several versions \(0\.1\.0, 1\.0\.0\)"):
        Rlds(tmp_path, Choice())


def test_an_action_leads_to_the_next_picture(tmp_path: Path):
    (found,) = read(Rlds, dataset(tmp_path, [steps([10, 20, 30])]), actions=True)
    np.testing.assert_array_equal(found.actions, [[0, 0], [1, 0], [2, 0]])


def test_parts_of_an_action_are_joined_in_the_order_of_their_names(tmp_path: Path):
    features = steps([10, 20])
    del features["steps/action"]
    features |= {"steps/action/world": [1.0, 2.0, 3.0, 4.0], "steps/action/grip": [7.0, 8.0]}
    (found,) = read(Rlds, dataset(tmp_path, [features]), actions=True)
    np.testing.assert_array_equal(found.actions, [[0, 0, 0], [7, 1, 2]])


def test_actions_that_do_not_fit_are_named(tmp_path: Path):
    path = dataset(tmp_path, [{**steps([10, 20]), "steps/action": [1.0, 2.0, 3.0]}])
    with pytest.raises(DataError, match="record 0: 3 numbers under steps/action for 2 pictures"):
        read(Rlds, path, actions=True)


def test_several_cameras_are_listed_and_depth_is_left_out(tmp_path: Path):
    depth = {"steps/observation/depth": [encoded(plain([9])[0])]}
    path = dataset(tmp_path, [{**steps([10]), **steps([20], "hand"), **depth}], depth="depth")
    with pytest.raises(ConfigError, match=r"several cameras \(hand, image\)"):
        Rlds(path, Choice())
    assert [episode.levels for episode in read(Rlds, path, camera="hand")] == [[20]]
    assert [episode.levels for episode in read(Rlds, path, camera="all")] == [[20], [10]]


def coloured(rgb: tuple[int, int, int], camera: str) -> dict[str, Values]:
    pixels = np.broadcast_to(np.asarray(rgb, np.uint8), (64, 64, 3))
    return {f"steps/observation/{camera}": [encoded(np.ascontiguousarray(pixels))]}


@pytest.mark.parametrize(
    ("name", "camera", "swapped"),
    [
        ("stanford_hydra_dataset_converted_externally_to_rlds", "image", True),
        ("utaustin_mutex", "wrist_image", True),
        ("berkeley_fanuc_manipulation", "image", True),
        ("berkeley_autolab_ur5", "hand_image", True),
        ("berkeley_autolab_ur5", "image", False),
        ("bridge", "image", False),
    ],
)
def test_sets_that_are_known_to_be_bgr_are_swapped_and_it_is_said(
    tmp_path: Path, name: str, camera: str, swapped: bool
):
    path = dataset(tmp_path, [coloured((200, 100, 50), camera)], name=name)
    (found,) = read(Rlds, path)
    assert found.frames[0, 0, 0].tolist() == ([50, 100, 200] if swapped else [200, 100, 50])
    notes = Rlds(path, Choice()).describe().notes
    assert notes == (
        (f"{camera} of {name} is known to be stored as blue, green, red: red and blue are exchanged",) * swapped
    )


def test_black_pictures_are_noted(tmp_path: Path):
    found = read(Rlds, dataset(tmp_path, [steps([0, 0]), steps([10])]))
    assert [len(episode.notes) for episode in found] == [1, 0]
    assert "record 0: image: all black" in found[0].notes[0]


def test_a_cut_record_is_named_and_those_before_are_good(tmp_path: Path):
    path = dataset(tmp_path, [steps([10]), steps([20])])
    (file,) = path.glob("*.tfrecord*")
    file.write_bytes(file.read_bytes()[:-5])
    source = Rlds(path, Choice())
    episodes = source.read(source.items()[0])
    assert len(list(next(episodes).pictures)) == 1
    with pytest.raises(DataError, match="cut short in record 1"):
        next(episodes)


@pytest.mark.parametrize(("place", "says"), [(0, "not a TFRecord file"), (100, r"record 0 is damaged \(checksum\)")])
def test_a_changed_byte_is_found(tmp_path: Path, place: int, says: str):
    path = dataset(tmp_path, [steps([10])])
    (file,) = path.glob("*.tfrecord*")
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=says):
        Rlds(path, Choice())


def test_a_header_that_is_cut_is_named(tmp_path: Path):
    (tmp_path / "file").write_bytes(framed(b"abc") + b"\x01\x02")
    with pytest.raises(DataError, match="cut short in record 1"):
        count_records(tmp_path / "file")


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"steps/state": [1.0]}, r"no lists of JPEG or PNG files under steps/ \(keys: steps/state\)"),
        ({"steps/observation/image": [b"neither"]}, "no lists of JPEG or PNG"),
    ],
)
def test_a_set_without_pictures_lists_its_keys(tmp_path: Path, features: dict[str, Values], says: str):
    with pytest.raises(DataError, match=says):
        Rlds(dataset(tmp_path, [features]), Choice())


def test_an_episode_without_the_camera_is_named(tmp_path: Path):
    path = dataset(tmp_path, [steps([10]), steps([20], "other")])
    with pytest.raises(DataError, match="record 1: no pictures under steps/observation/image"):
        read(Rlds, path)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path):
    cut = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))[:500]
    path = dataset(tmp_path, [{"steps/observation/image": [cut]}])
    with pytest.raises(DataError, match="record 0: image: cannot be decoded"):
        read(Rlds, path)


def test_episodes_are_numbered_through_all_files_and_counted_no_further_than_needed(tmp_path: Path):
    path = dataset(tmp_path, [steps([1]), steps([2])], [steps([3]), steps([4])], [steps([5])])
    assert [episode.levels for episode in read(Rlds, path, episodes=((1, 4),))] == [[2], [3], [4]]
    (path / "bridge-train.tfrecord-00002-of-00003").write_bytes(b"not records")
    source = Rlds(path, Choice(episodes=((1, None),), limit=2))
    assert [item.detail for item in source.items()] == [[1], [0]]
    with pytest.raises(ConfigError, match="no episode is left"):
        Rlds(dataset(tmp_path / "b", [steps([1])]), Choice(episodes=((9, None),)))


def test_the_description_says_what_is_stated_and_what_is_missing(tmp_path: Path):
    path = dataset(tmp_path, [steps([1, 2]), steps([3, 4])], [steps([5, 6])], of=4)
    found = Rlds(path, Choice()).describe()
    assert (found.format, found.items, found.episodes, found.frames) == ("RLDS bridge", 2, 3, 6)
    assert (found.cameras, found.sizes) == (("image",), ("32 x 48",))
    assert found.notes == ("2 files of 4 of split train are not there",)
    (path / "dataset_info.json").unlink()
    found = Rlds(path, Choice()).describe()
    assert (found.episodes, found.format) == (None, "RLDS bridge")
    assert found.frames in (6, 7)  # by the sizes of files


def test_pointers_and_other_formats_are_named(tmp_path: Path):
    path = dataset(tmp_path, [steps([1])])
    (file,) = path.glob("*.tfrecord*")
    file.write_bytes(POINTER)
    with pytest.raises(DataError, match="git lfs pull"):
        Rlds(path, Choice())
    file.rename(path / "bridge-train.array_record-00000-of-00001")
    assert Rlds.recognise(path)
    with pytest.raises(DataError, match="convert array_record"):
        Rlds(path, Choice())
    with pytest.raises(DataError, match="name its folder"):
        Rlds(path / "features.json", Choice())


def test_recognising_is_not_misled(tmp_path: Path):
    assert not Rlds.recognise(tmp_path / "missing")
    (tmp_path / "dataset_info.json").touch()  # of the library datasets
    for number in range(1000):
        (tmp_path / f"{number}.jpg").touch()
    assert not Rlds.recognise(tmp_path)


def test_choices_that_it_does_not_have_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--label: .* read as rlds"):
        Rlds(dataset(tmp_path, [steps([1])]), Choice(labels=("a",)))
