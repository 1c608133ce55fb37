"""env.camera: text or a pose, from the command line and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelar_ray.config import CameraPose, load_config, to_yaml
from prelar_ray.errors import ConfigError


def test_a_pose_is_read_from_one_override_or_several_and_written_back(tmp_path: Path) -> None:
    whole = load_config(None, None, ["env.camera={position: [1, 2, 3], look_at: [0, 0, 1], fov: 60}"])
    assert whole.env.camera == CameraPose(position=(1, 2, 3), look_at=(0, 0, 1), fov=60)
    parts = [f"env.camera.{part}" for part in ("position=[1, 2, 3]", "look_at=[0, 0, 1]", "fov=60")]
    assert load_config(None, None, parts) == whole
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(whole))
    assert load_config(None, file) == whole
    assert load_config(None, file, ["env.camera=corner"]).env.camera == "corner"


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ("{position: [1, 2, 3]}", "env.camera: a pose has either look_at or quaternion; a pose is such as"),
        ("{position: [1, 2, 3], look_at: [1, 2, 3]}", "env.camera: look_at is the position"),
        ("{position: [1, 2, 3], quaternion: [0, 0, 0, 0]}", "env.camera: quaternion is zero"),
        ("{position: [1, 2], look_at: [0, 0, 0]}", "env.camera: position: "),
        ("{position: [1, 2, .inf], look_at: [0, 0, 0]}", "env.camera: position: "),
        ("{look_at: [0, 0, 0]}", "env.camera: position: Field required"),
        ("{position: [1, 2, 3], look_at: [0, 0, 0], fov: 180}", "env.camera: fov: "),
        ("{position: [1, 2, 3], look_at: [0, 0, 0], roll: 3}", "env.camera: roll: "),
    ],
)
def test_a_wrong_pose_is_refused_in_one_line(camera: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_config(None, None, [f"env.camera={camera}"])
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
