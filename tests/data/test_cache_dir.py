import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lightning_cifake.data import cache_dir
from lightning_cifake.data.cache_dir import default_cache_dir
from lightning_cifake.errors import UserError

TEMPORARY = tempfile.gettempdir()
NAMES = ("LIGHTNING_CIFAKE_CACHE", "XDG_CACHE_HOME", "HOME")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "lightning_cifake"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "lightning_cifake"
    monkeypatch.setenv("LIGHTNING_CIFAKE_CACHE", "~/named")
    assert default_cache_dir() == tmp_path / "named"
    assert not (tmp_path / ".cache").exists()  # asking makes nothing


def test_a_relative_xdg_folder_is_ignored_as_its_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "caches")
    assert default_cache_dir() == tmp_path / ".cache" / "lightning_cifake"


@pytest.mark.parametrize("home", ["/nonexistent", "/dev/null", "relative", "/proc/self"])
def test_a_home_that_cannot_be_written_gives_a_private_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).startswith(str(tmp_path)) and access(path, mode))
    folder = default_cache_dir()
    assert folder == tmp_path / "tmp" / f"lightning_cifake-{os.getuid()}"
    assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    assert default_cache_dir() == folder


def test_a_cache_that_others_have_filled_is_read_where_it_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    filled = tmp_path / ".cache" / "lightning_cifake"
    filled.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert default_cache_dir() == filled


def test_a_temporary_folder_that_is_not_this_users_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cache_dir, "_usable", lambda folder: False)
    folder = tmp_path / "tmp" / f"lightning_cifake-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(UserError, match=r"not this user's alone: name a folder .*--data\.cache_dir"):
        default_cache_dir()
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match="not this user's alone"):
        default_cache_dir()
    folder.chmod(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    folder.rename(folder.with_name("lightning_cifake-12345"))
    with pytest.raises(UserError, match="not this user's alone"):
        default_cache_dir()


def test_without_a_home_other_libraries_get_a_place_too_and_with_one_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("MPLCONFIGDIR", "TORCH_HOME", "KERAS_HOME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    cache_dir.work_without_home()
    assert not [name for name in names if name in os.environ] and not (tmp_path / ".cache").exists()
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setenv("TORCH_HOME", "named")
    monkeypatch.setenv("MPLCONFIGDIR", "")  # so that it is taken back after the test
    monkeypatch.setenv("KERAS_HOME", "")
    for name in ("MPLCONFIGDIR", "KERAS_HOME"):
        del os.environ[name]
    cache_dir.work_without_home()
    folder = default_cache_dir()
    assert [os.environ[name] for name in names] == [str(folder / "matplotlib"), "named", str(folder / "keras")]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to become another user")
def test_a_user_id_that_the_system_does_not_know_has_a_cache() -> None:
    code = (
        "import os, sys; from lightning_cifake.data.cache_dir import default_cache_dir; os.setgid(12345); "
        "os.setuid(12345); folder = default_cache_dir(); (folder / 'a').touch(); print(folder)"
    )
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as folder:  # pytest's own may not be entered by another user
        Path(folder).chmod(0o777)
        ended = subprocess.run(
            [sys.executable, "-c", code], env={"TMPDIR": folder}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == str(Path(folder) / "lightning_cifake-12345")
