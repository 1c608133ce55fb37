from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prelar_ray.commands import doctor
from prelar_ray.distributed.ray_token import ensure_token, read_token, token_path
from prelar_ray.errors import ResourceError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has never started a Ray."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_token_is_its_owners_alone_from_the_start(home: Path, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:
    seen = []
    link = os.link
    monkeypatch.setattr(os, "link", lambda made, path: (seen.append(mode(made)), link(made, path)))
    before = os.umask(umask)
    try:
        ensure_token()
    finally:
        os.umask(before)
    path = home / ".ray" / "auth_token"
    assert seen == [0o600]
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert len(bytes.fromhex(path.read_text())) == 32
    assert list(path.parent.iterdir()) == [path]


def test_a_token_is_kept_and_closed_to_others(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("abc")
    path.chmod(0o644)
    ensure_token()
    assert (path.read_text(), mode(path)) == ("abc", 0o600)
    assert f"{path}: was readable by others (mode 644); now only you can" in caplog.text
    caplog.clear()
    ensure_token()
    assert caplog.text == ""


def test_runs_that_start_together_have_one_token(home: Path) -> None:
    def start(_: int) -> str:
        ensure_token()
        return (home / ".ray" / "auth_token").read_text()

    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(start, range(32)))
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_MODE", "k8s"), ("RAY_AUTH_TOKEN", "secret")]
)
def test_where_no_file_is_needed_none_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    ensure_token()
    assert token_path() is None
    assert list(home.iterdir()) == []


def test_a_home_that_cannot_be_written_is_named_with_the_way_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("HOME", str(home / "file"))
    with pytest.raises(ResourceError) as caught:
        ensure_token()
    said = str(caught.value)
    assert said.startswith(f"{home}/file/.ray/auth_token: Not a directory; Ray keeps its token there: let HOME be")
    assert "or RAY_AUTH_TOKEN_PATH a file in one" in said
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "elsewhere" / "token"))
    ensure_token()
    assert mode(home / "elsewhere" / "token") == 0o600


def test_the_token_is_read_from_where_ray_has_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token() is None
    ensure_token()
    assert read_token() == (home / ".ray" / "auth_token").read_text()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home))
    with pytest.raises(ResourceError, match=rf"^{home}: Is a directory; Ray keeps its token there"):
        read_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert read_token() == "secret"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert read_token() is None


def test_doctor_fails_where_others_can_read_the_token(home: Path) -> None:
    assert doctor.check_token().status == "OK"
    ensure_token()
    assert doctor.check_token().status == "OK"
    path = home / ".ray" / "auth_token"
    path.chmod(0o640)
    check = doctor.check_token()
    assert (check.status, check.finding) == ("FAIL", f"{path} is readable by others (mode 640)")
    assert check.remedy.startswith(f"chmod 600 {path}")
    assert path.read_text() not in check.finding + check.remedy
