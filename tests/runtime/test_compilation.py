"""Where compiled programs are kept: also where there is no home, or one that cannot be written."""

import os
import tempfile
from pathlib import Path

import pytest

from sigma_jax.runtime.compilation import cache_folder


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()


def test_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == str(tmp_path / ".cache" / "sigma_jax" / "xla")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
    assert cache_folder() == "gs://bucket/xla"


@pytest.mark.parametrize("home", ["unknown user", "a file in its place"])
def test_without_a_home_in_a_folder_of_its_own(home, monkeypatch, tmp_path):
    if home == "unknown user":
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home")))
    else:
        (tmp_path / "home").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = Path(cache_folder())
    assert folder.parent == tmp_path / "tmp" / f"sigma_jax_{os.getuid()}"
    assert folder.parent.stat().st_mode & 0o77 == 0


def test_a_strangers_folder_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/dev/null")
    (tmp_path / "evil").mkdir()
    (tmp_path / "tmp" / f"sigma_jax_{os.getuid()}").symlink_to(tmp_path / "evil")
    assert cache_folder() == ""
