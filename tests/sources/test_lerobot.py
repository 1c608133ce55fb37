from __future__ import annotations

import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prelar_ray.errors import ConfigError, DataError
from prelar_ray.sources.lerobot import LeRobot
from prelar_ray.sources.source import Choice
from tests.sources.reading import POINTER, Read, plain, read

V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
V3_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
V3_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CAMERA = "observation.images.top"


def film(path: Path, levels: Sequence[int], fps: int = 10, times: Sequence[float] | None = None) -> None:
    """A video with a frame of one level at each time, by default at the rate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.options = {"qp": "0", "g": "2", "bf": "0"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, pixels in enumerate(plain(list(levels), 64, 96)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = round(1000 * (number / fps if times is None else times[number]))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def table(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def rows(episodes: Sequence[tuple[int, int]], **more: Any) -> dict[str, Any]:
    """Columns of a table that holds these (number, length); an action is 100 * number + row."""
    index = [number for number, length in episodes for _ in range(length)]
    frame = [row for _, length in episodes for row in range(length)]
    action = [[100.0 * number + row, 1.0] for number, row in zip(index, frame, strict=True)]
    actions = pa.array(action, pa.list_(pa.float32()))
    return {"episode_index": index, "frame_index": frame, "action": actions, **more}


def info(folder: Path, **change: Any) -> None:
    content: dict[str, Any] = {
        "codebase_version": "v2.1",
        "fps": 10,
        "chunks_size": 1000,
        "video_path": V2_VIDEO,
        "data_path": V2_DATA,
        "features": {
            CAMERA: {"dtype": "video", "shape": [64, 96, 3], "info": {"video.fps": 10.0}},
            "action": {"dtype": "float32", "shape": [2]},
        },
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps({**content, **change}))


def lines(folder: Path, *episodes: dict[str, Any]) -> None:
    (folder / "meta" / "episodes.jsonl").write_text("".join(f"{json.dumps(episode)}\n" for episode in episodes))


def v2(folder: Path, **change: Any) -> Path:
    """Two episodes of two and three frames, listed out of order."""
    info(folder, **change)
    lines(
        folder,
        {"episode_index": 1, "tasks": ["open the door"], "length": 3},
        {"episode_index": 0, "tasks": ["push", "second"], "length": 2},
    )
    for number, levels in enumerate(([10, 20], [30, 40, 50])):
        film(folder / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4", levels)
        table(folder / f"data/chunk-000/episode_{number:06d}.parquet", rows([(number, len(levels))]))
    return folder


def v3_row(index: int, length: int, start: float, file: int = 0, camera: str = CAMERA, **more: Any) -> dict[str, Any]:
    return {
        "episode_index": index,
        "tasks": [f"task {index}"],
        "length": length,
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": 12345,  # wrong in public files: never used
        f"videos/{camera}/chunk_index": 0,
        f"videos/{camera}/file_index": file,
        f"videos/{camera}/from_timestamp": start,
        f"videos/{camera}/to_timestamp": start + length / 10,
        "stats/action/min": [0.0],
        **more,
    }


def v3(folder: Path, episodes: Sequence[dict[str, Any]] = (), **change: Any) -> Path:
    """Three episodes of two, three and one frames: the first two in one video, all in one table."""
    info(folder, **{"codebase_version": "v3.0", "video_path": V3_VIDEO, "data_path": V3_DATA, **change})
    first, second, third = v3_row(0, 2, 0.0), v3_row(1, 3, 0.2), v3_row(2, 1, 0.0, file=1)
    given = list(episodes) or [first, second, third]
    halves = [given] if episodes else [[third, first], [second]]  # several files, out of order
    for number, half in enumerate(halves):
        columns = {key: [row[key] for row in half] for key in half[0]}
        table(folder / f"meta/episodes/chunk-000/file-{number:03d}.parquet", columns)
    film(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4", [10, 20, 30, 40, 50])
    film(folder / f"videos/{CAMERA}/chunk-000/file-001.mp4", [60])
    table(folder / "data/chunk-000/file-000.parquet", rows([(0, 2), (1, 3), (2, 1)]))
    return folder


def png(level: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plain([level], 8, 8)[0]).save(out, "png")
    return out.getvalue()


def images(folder: Path, **change: Any) -> Path:
    """A v3.0 folder of two episodes, whose pictures are in the table."""
    features = {"observation.image": {"dtype": "image", "shape": [3, 8, 8]}}
    info(
        folder, **{"codebase_version": "v3.0", "features": features, "video_path": None, "data_path": V3_DATA, **change}
    )
    table(
        folder / "meta/episodes/chunk-000/file-000.parquet",
        {"episode_index": [0, 1], "length": [2, 1], "data/chunk_index": [0, 0], "data/file_index": [0, 0]},
    )
    cells = [{"bytes": png(level), "path": None} for level in (10, 20, 30)]
    table(folder / "data/chunk-000/file-000.parquet", rows([(0, 2), (1, 1)], **{"observation.image": cells}))
    return folder


def levels(found: Sequence[Read]) -> list[list[int]]:
    """Levels of all frames, to the next ten: an encoded one may be off by two."""
    assert all(abs(level - round(level, -1)) <= 2 for episode in found for level in episode.levels)
    return [[round(level, -1) for level in episode.levels] for episode in found]


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "2.3.0"])
def test_v2_has_one_episode_a_video_in_the_order_of_their_numbers(tmp_path: Path, version: str):
    found = read(LeRobot, v2(tmp_path, codebase_version=version))
    assert levels(found) == [[10, 20], [30, 40, 50]]
    assert [episode.name for episode in found] == ["push", "open the door"]
    assert found[1].times == [0.0, 0.1, 0.2]
    assert [episode.notes for episode in found] == [[], []]


def test_v3_has_many_episodes_a_video_which_is_one_item(tmp_path: Path):
    source = LeRobot(v3(tmp_path), Choice())
    assert [item.key for item in source.items()] == [
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
        f"videos/{CAMERA}/chunk-000/file-001.mp4",
    ]
    found = read(LeRobot, tmp_path)
    assert levels(found) == [[10, 20], [30, 40, 50], [60]]
    assert [episode.name for episode in found] == ["task 0", "task 1", "task 2"]
    assert found[1].times == [0.0, 0.1, 0.2]


def test_a_video_is_opened_once_for_all_its_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    v3(tmp_path)
    opened: list[str] = []
    true_open = av.open
    monkeypatch.setattr(av, "open", lambda file, *rest, **more: opened.append(file) or true_open(file, *rest, **more))
    read(LeRobot, tmp_path)
    assert len(opened) == len(set(opened)) == 2


@pytest.mark.parametrize("drift", [-0.045, -0.004, 0.004, 0.045])
def test_a_start_that_drifted_finds_the_nearest_frame(tmp_path: Path, drift: float):
    found = read(LeRobot, v3(tmp_path, [v3_row(0, 2, 0.0), v3_row(1, 3, 0.2 + drift)]))
    assert levels(found) == [[10, 20], [30, 40, 50]]
    assert found[1].notes == []


def test_an_episode_starts_elsewhere_in_the_video_of_each_camera(tmp_path: Path):
    wrist = "observation.images.wrist"
    features = {key: {"dtype": "video", "shape": [64, 96, 3]} for key in (CAMERA, wrist)}
    also = [
        {f"videos/{wrist}/{name}": value for name, value in place.items()}
        for place in (
            {"chunk_index": 0, "file_index": 0, "from_timestamp": 0.1},
            {"chunk_index": 0, "file_index": 1, "from_timestamp": 0.0},
        )
    ]
    v3(tmp_path, [v3_row(0, 2, 0.0, **also[0]), v3_row(1, 3, 0.2, **also[1])], features=features)
    film(tmp_path / f"videos/{wrist}/chunk-000/file-000.mp4", [100, 110, 120])
    film(tmp_path / f"videos/{wrist}/chunk-000/file-001.mp4", [130, 140, 150])
    with pytest.raises(ConfigError, match=rf"several cameras \({CAMERA}, {wrist}\); choose one with --camera"):
        LeRobot(tmp_path, Choice())
    assert levels(read(LeRobot, tmp_path, camera=wrist)) == [[110, 120], [130, 140, 150]]
    assert levels(read(LeRobot, tmp_path, camera="all")) == [[10, 20], [30, 40, 50], [110, 120], [130, 140, 150]]


def test_templates_decide_where_the_version_is_wrong(tmp_path: Path):
    assert levels(read(LeRobot, v2(tmp_path, codebase_version="v3.0", fps=10.0))) == [[10, 20], [30, 40, 50]]


def test_episodes_per_file_may_be_listed_in_a_table(tmp_path: Path):
    v2(tmp_path, codebase_version="v3.0")
    (tmp_path / "meta/episodes.jsonl").unlink()
    columns = {"episode_index": [0, 1], "tasks": [["a"], ["b"]], "length": [2, 3]}
    table(tmp_path / "meta/episodes/chunk-000/file-000.parquet", columns)
    assert levels(read(LeRobot, tmp_path)) == [[10, 20], [30, 40, 50]]


def test_a_camera_whose_own_rate_differs_is_read_by_time(tmp_path: Path):
    features = {CAMERA: {"dtype": "video", "shape": [64, 96, 3], "video_info": {"video.fps": 10}}}
    info(tmp_path, fps=20, features=features)
    lines(tmp_path, {"episode_index": 0, "tasks": ["t"], "length": 5})
    film(tmp_path / f"videos/chunk-000/{CAMERA}/episode_000000.mp4", [10, 20, 30], fps=10)
    (found,) = read(LeRobot, tmp_path)
    assert levels([found])[0][::2] == [10, 20, 30]
    assert (len(found.frames), found.notes) == (5, [])


def test_sizes_come_from_the_video_and_rates_may_be_fractions(tmp_path: Path):
    features = {CAMERA: {"dtype": "video", "shape": [3, 480, 640]}}
    found = LeRobot(v2(tmp_path, features=features, fps=29.97), Choice()).describe()
    assert (found.sizes, found.rates) == (("96 x 64",), ("29.97",))


def test_a_video_that_is_shorter_keeps_what_is_there_and_names_the_episode(tmp_path: Path):
    v2(tmp_path)
    film(tmp_path / f"videos/chunk-000/{CAMERA}/episode_000001.mp4", [30, 40])
    found = read(LeRobot, tmp_path, actions=True)
    assert levels(found) == [[10, 20], [30, 40]]
    assert len(found[1].notes) == 1
    assert "episode 1: 2 pictures, expected 3" in found[1].notes[0]
    assert found[1].actions is not None
    assert len(found[1].actions) == 2


def test_an_episode_beyond_the_end_of_its_video_is_empty_and_noted(tmp_path: Path):
    found = read(LeRobot, v3(tmp_path, [v3_row(0, 5, 0.0), v3_row(1, 2, 0.5)]))
    assert levels(found) == [[10, 20, 30, 40, 50], []]
    assert "episode 1: 0 pictures, expected 2" in found[1].notes[0]


def test_a_picture_that_is_missing_within_a_video_is_replaced_by_the_nearest(tmp_path: Path):
    v2(tmp_path)
    film(tmp_path / f"videos/chunk-000/{CAMERA}/episode_000001.mp4", [30, 50], times=[0.0, 0.2])
    found = read(LeRobot, tmp_path)
    assert levels(found)[1] in ([30, 30, 50], [30, 50, 50])
    assert "episode 1: 1 picture missing" in found[1].notes[0]


def test_an_episode_of_one_frame_is_legal(tmp_path: Path):
    assert levels(read(LeRobot, v3(tmp_path), episodes=((2, 3),))) == [[60]]


def test_episodes_are_chosen_by_number_within_a_video(tmp_path: Path):
    assert levels(read(LeRobot, v3(tmp_path), episodes=((1, 2),))) == [[30, 40, 50]]
    assert levels(read(LeRobot, tmp_path, limit=2)) == [[10, 20], [30, 40, 50]]
    with pytest.raises(ConfigError, match="no episode is left"):
        LeRobot(tmp_path, Choice(episodes=((7, None),)))


@pytest.mark.parametrize("make", [v2, v3])
def test_an_action_leads_to_the_next_picture(tmp_path: Path, make: Any):
    actions = [episode.actions for episode in read(LeRobot, make(tmp_path), actions=True)]
    assert actions[1].dtype == np.float32
    np.testing.assert_array_equal(actions[0], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(actions[1], [[0, 0], [100, 1], [101, 1]])


def test_actions_that_are_missing_are_named(tmp_path: Path):
    v2(tmp_path)
    table(tmp_path / "data/chunk-000/episode_000000.parquet", {"episode_index": [0, 0]})
    with pytest.raises(DataError, match=r"episode_000000\.parquet: no column action"):
        read(LeRobot, tmp_path, actions=True)
    table(tmp_path / "data/chunk-000/episode_000000.parquet", rows([(0, 1)]))
    with pytest.raises(DataError, match="1 actions of episode 0, expected 2"):
        read(LeRobot, tmp_path, actions=True)


def test_pictures_in_the_table_are_read_with_their_actions(tmp_path: Path):
    found = read(LeRobot, images(tmp_path), actions=True)
    assert levels(found) == [[10, 20], [30]]
    assert found[0].times == [0.0, 0.1]
    assert found[0].name == tmp_path.name  # has no task
    np.testing.assert_array_equal(found[0].actions, [[0, 0], [0, 1]])
    assert LeRobot(tmp_path, Choice()).describe().sizes == ("8 x 8",)


def test_pictures_beside_the_table_are_read_only_within_the_folder(tmp_path: Path):
    images(tmp_path / "set")
    cells = [{"bytes": None, "path": f"images/{number}.png"} for number in range(3)]
    data = tmp_path / "set/data/chunk-000/file-000.parquet"
    table(data, rows([(0, 2), (1, 1)], **{"observation.image": cells}))
    with pytest.raises(DataError, match=r"images/0\.png: missing"):
        read(LeRobot, tmp_path / "set")
    (tmp_path / "set/images").mkdir()
    for number in range(3):
        (tmp_path / f"set/images/{number}.png").write_bytes(png(10 * number))
    assert levels(read(LeRobot, tmp_path / "set")) == [[0, 10], [20]]
    for path in ("../outside.png", "/etc/passwd", None):
        cells[0] = {"bytes": None, "path": path}
        table(data, rows([(0, 2), (1, 1)], **{"observation.image": cells}))
        with pytest.raises(DataError, match=r"picture 0: neither bytes .* in the folder"):
            read(LeRobot, tmp_path / "set")


def test_an_episode_that_its_table_lacks_is_named(tmp_path: Path):
    images(tmp_path)
    cells = [{"bytes": png(10), "path": None}] * 2
    table(tmp_path / "data/chunk-000/file-000.parquet", rows([(0, 2)], **{"observation.image": cells}))
    with pytest.raises(DataError, match=r"file-000\.parquet: no rows of episode 1"):
        read(LeRobot, tmp_path)


@pytest.mark.parametrize("mark", [{"info": {"video.is_depth_map": True}}, {"video_info": {"is_depth_map": True}}])
def test_depth_maps_are_left_out_and_said(tmp_path: Path, mark: dict[str, Any]):
    features = {
        CAMERA: {"dtype": "video", "shape": [64, 96, 3]},
        "observation.images.depth": {"dtype": "video", "shape": [64, 96, 1], **mark},
    }
    source = LeRobot(v2(tmp_path, features=features), Choice())
    assert source.describe().cameras == (CAMERA,)
    assert source.describe().notes == ("depth maps are left out: observation.images.depth",)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("../{video_key}/{episode_index}.mp4", "not in the folder"),
        ("/videos/{video_key}/{episode_index}.mp4", "not in the folder"),
        ("videos/{video_key}/{secret}_{episode_index}.mp4", "can be filled in"),
        ("videos/{video_key.__class__}/{episode_index}.mp4", "can be filled in"),
        ("videos/{episode_index:0999999999d}.mp4", "can be filled in"),
        ("videos/{episode_index!r}.mp4", "can be filled in"),
        ("videos/{episode_index", "can be filled in"),
        ("videos/{video_key}.mp4", "expected file_index or episode_index"),
        (None, "expected file_index or episode_index"),
    ],
)
def test_templates_fill_in_known_names_and_stay_in_the_folder(tmp_path: Path, template: str | None, says: str):
    with pytest.raises(DataError, match=f"info.json: video_path .*{says}"):
        LeRobot(v2(tmp_path, video_path=template), Choice())


def test_a_camera_name_cannot_leave_the_folder(tmp_path: Path):
    with pytest.raises(DataError, match="not in the folder"):
        LeRobot(v2(tmp_path, features={"../..": {"dtype": "video"}}), Choice())


def test_a_recording_that_was_not_completed_says_so(tmp_path: Path):
    v3(tmp_path)
    path = tmp_path / "meta/episodes/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"file-001\.parquet: .*no footer: its recording was not completed by finalize"):
        LeRobot(tmp_path, Choice())


@pytest.mark.parametrize("make", [v2, v3])
def test_pointers_of_git_lfs_are_told_from_data(tmp_path: Path, make: Any):
    make(tmp_path)
    next(tmp_path.rglob("*.mp4")).write_bytes(POINTER)
    with pytest.raises(DataError, match="git lfs pull"):
        read(LeRobot, tmp_path)
    for path in (tmp_path / "meta").rglob("*.*"):
        path.write_bytes(POINTER)
    with pytest.raises(DataError, match=r"info\.json: .*git lfs pull"):
        LeRobot(tmp_path, Choice())


def test_what_is_missing_is_named(tmp_path: Path):
    v2(tmp_path)
    video = tmp_path / f"videos/chunk-000/{CAMERA}/episode_000001.mp4"
    video.unlink()
    (note,) = LeRobot(tmp_path, Choice()).describe().notes
    assert note == f"1 file not there, the first is {video}"
    with pytest.raises(DataError, match=r"episode_000001\.mp4: missing; download it"):
        read(LeRobot, tmp_path)
    (tmp_path / "meta/episodes.jsonl").unlink()
    with pytest.raises(DataError, match=r"neither episodes\.jsonl nor episodes/"):
        LeRobot(tmp_path, Choice())


def test_a_table_of_episodes_without_places_is_named(tmp_path: Path):
    row = v3_row(0, 2, 0.0)
    del row[f"videos/{CAMERA}/from_timestamp"]
    with pytest.raises(DataError, match="does not say in which file and from when episode 0 is"):
        LeRobot(v3(tmp_path, [row]), Choice())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fps": 0}, "fps: Input should be greater than 0"),
        ({"features": {"action": {"dtype": "float32"}}}, r"no video or images among its features \(action\)"),
        ({"features": None}, "features: "),
    ],
)
def test_an_info_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], says: str):
    with pytest.raises(DataError, match=rf"info\.json: {says}"):
        LeRobot(v2(tmp_path, **change), Choice())


def test_damaged_descriptions_are_named(tmp_path: Path):
    v2(tmp_path)
    for line in ("{", '{"tasks": []}', "[]"):
        (tmp_path / "meta/episodes.jsonl").write_text(f'{{"episode_index": 0, "length": 2}}\n{line}\n')
        with pytest.raises(DataError, match=r"episodes\.jsonl: line 2 is no episode"):
            LeRobot(tmp_path, Choice())
    (tmp_path / "meta/episodes.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no episodes in it"):
        LeRobot(tmp_path, Choice())
    (tmp_path / "meta/info.json").write_text("{")
    with pytest.raises(DataError, match=r"info\.json: its text: "):
        LeRobot(tmp_path, Choice())


def test_v1_is_recognised_to_be_refused_with_a_sentence(tmp_path: Path):
    (tmp_path / "meta_data").mkdir()
    (tmp_path / "meta_data/info.json").write_text("{}")
    assert LeRobot.recognise(tmp_path)
    with pytest.raises(DataError, match="LeRobot v1, which is not read"):
        LeRobot(tmp_path, Choice())


def test_recognising_needs_its_description(tmp_path: Path):
    assert not LeRobot.recognise(tmp_path)
    assert LeRobot.recognise(v2(tmp_path))
    assert not LeRobot.recognise(tmp_path / "meta/info.json")


def test_choices_that_it_does_not_have_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="--start: .* read as lerobot"):
        LeRobot(v2(tmp_path), Choice(start=1.0))


def test_the_description_adds_up(tmp_path: Path):
    found = LeRobot(v3(tmp_path), Choice()).describe()
    assert (found.format, found.items, found.episodes, found.frames) == ("LeRobot v3.0", 2, 3, 6)
    assert (found.cameras, found.sizes, found.rates, found.notes) == ((CAMERA,), ("96 x 64",), ("10",), ())
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.mp4"))
