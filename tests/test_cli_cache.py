"""The command line keeps compiled programs: where, and what it does where it cannot."""

import os
import shutil
import subprocess
import sys
from typing import Any

import jax
import pytest

from entropix.cli import cache
from entropix.cli.cache import use_cache


CONFIG: Any = jax.config
_NAMES = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """A home of its own, and the configuration of a user who has none."""
    before = {name: getattr(jax.config, name) for name in _NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    for name in _NAMES:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_users_cache_folder_is_used(tmp_path, capsys):
    use_cache(True)
    (folder,) = (tmp_path / "cache" / "entropix").iterdir()
    assert CONFIG.jax_compilation_cache_dir == str(folder)
    assert CONFIG.jax_compilation_cache_max_size == -1
    assert list(folder.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_what_the_user_has_configured_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    jax.config.update("jax_compilation_cache_max_size", 1000)
    use_cache(True)
    assert CONFIG.jax_compilation_cache_max_size == 1000
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    use_cache(True)
    assert CONFIG.jax_compilation_cache_dir == str(tmp_path / "own")


def test_without():
    use_cache(False)
    assert not CONFIG.jax_enable_compilation_cache


@pytest.mark.parametrize("cause", ["file", "full"])
def test_a_folder_that_cannot_be_used_is_noted(cause, tmp_path, monkeypatch, capsys):
    if cause == "file":
        (tmp_path / "cache").write_text("")
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    use_cache(True)
    err = capsys.readouterr().err
    assert err.startswith("entropix: note: compiled programs are not kept, ")
    assert err.count("\n") == 1
    assert CONFIG.jax_compilation_cache_dir is None


def test_what_was_used_least_recently_is_removed(tmp_path, monkeypatch):
    use_cache(True)
    (folder,) = (tmp_path / "cache" / "entropix").iterdir()
    for i in range(8):
        entry = folder / f"{i}-cache"
        entry.write_bytes(bytes(1000))
        os.utime(entry, (i, 0) if i % 2 else (0, i))  # read, or written, at i seconds
    monkeypatch.setattr(cache, "LIMIT", 8000)
    for expected in ("01234567", "567"):
        jax.config.update("jax_compilation_cache_dir", None)
        use_cache(True)
        assert sorted(path.name[0] for path in folder.iterdir()) == list(expected)
        monkeypatch.setattr(cache, "LIMIT", 7999)


PROGRAMS = """
import jax
from entropix.cli.cache import use_cache

use_cache(True)
for n in range(1, 12):
    jax.block_until_ready(jax.jit(lambda x: n * x)(jax.numpy.ones(n)))
"""


@pytest.mark.slow(reason="three processes")
def test_two_runs_at_once_and_a_third(tmp_path):
    def start() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", PROGRAMS], stderr=subprocess.PIPE, text=True)

    kept = []
    for count in (2, 1):
        if kept:  # one entry that a killed run has left
            damaged = folder / min(kept[0])
            damaged.write_bytes(damaged.read_bytes()[:100])
        for run in [start() for _ in range(count)]:
            _, err = run.communicate()
            assert run.returncode == 0
            assert err == ""
        (folder,) = (tmp_path / "cache" / "entropix").iterdir()
        kept.append({path.name for path in folder.glob("*-cache")})
    assert len(kept[0]) > 10
    assert kept[0] == kept[1]  # the third run has compiled nothing
