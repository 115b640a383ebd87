"""The cache of translations on disk: what is read, what is ignored and replaced, and how large it becomes."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from llvmlite import ir

from qpu.emu.engine import native as compiled
from qpu.emu.engine.host_cpu import is_x86
from qpu.emu.engine.native import build, cache_directory

IDENTITY = b"a program"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("QPU_CACHE_DIR", str(place))
    return place


class Source:
    """A function that returns a number; `calls`: how often it was translated."""

    def __init__(self, number: int = 7) -> None:
        self.number = number
        self.calls = 0

    def __call__(self) -> tuple[str, dict[str, Any]]:
        self.calls += 1
        module = ir.Module("m")
        i32 = ir.IntType(32)
        function = ir.Function(module, ir.FunctionType(i32, []), "run")
        ir.IRBuilder(function.append_basic_block()).ret(i32(self.number))
        return str(module), {"number": self.number}


def result(code: compiled.NativeCode) -> int:
    return int(code.function(ctypes.c_int32)())


def only(cache: Path) -> Path:
    (entry,) = cache.glob("*.qpuc")
    return entry


def test_the_second_time_nothing_is_translated(cache: Path) -> None:
    source = Source()
    first, second = build(IDENTITY, source), build(IDENTITY, source)
    assert (first.from_cache, second.from_cache, source.calls) == (False, True, 1)
    assert result(first) == result(second) == 7
    assert second.meta == {"number": 7}


@pytest.mark.parametrize("what", ["program", "level", "vectors"])
def test_what_the_code_depends_on_is_in_the_key(cache: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    build(IDENTITY, source)
    if what == "vectors":
        monkeypatch.setenv("QPU_EMU_VECTORS", "sse2")
        if not is_x86():
            pytest.skip("for x86-64 hosts")
    build(b"other" if what == "program" else IDENTITY, source, level=2 if what == "level" else 1)
    assert source.calls == 2
    assert len(list(cache.glob("*.qpuc"))) == 2


def damage_nothing_left(data: bytes) -> bytes:
    return b""


def damage_no_code(data: bytes) -> bytes:
    return data.partition(b"\n")[0]


def damage_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_one_byte(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


def damage_head(data: bytes) -> bytes:
    return b"{" + data


def damage_other_json(data: bytes) -> bytes:
    return b"[1, 2]\n" + data.partition(b"\n")[2]


def damage_version(data: bytes) -> bytes:
    """An entry of another version of the engine under this one's name."""
    head, _, code = data.partition(b"\n")
    return json.dumps(json.loads(head) | {"format": compiled.ENGINE_VERSION - 1}).encode() + b"\n" + code


DAMAGES = [value for name, value in sorted(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_entries_are_ignored_and_replaced(cache: Path, damage: Any) -> None:
    source = Source()
    build(IDENTITY, source)
    entry = only(cache)
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    again = build(IDENTITY, source)
    assert not again.from_cache
    assert result(again) == 7
    assert source.calls == 2
    assert build(IDENTITY, source).from_cache
    assert json.loads(only(cache).read_bytes().partition(b"\n")[0]) == json.loads(good.partition(b"\n")[0])


def test_another_engine_version_translates_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    build(IDENTITY, source)
    monkeypatch.setattr(compiled, "ENGINE_VERSION", compiled.ENGINE_VERSION + 1)
    build(IDENTITY, source)
    assert source.calls == 2
    assert len(list(cache.glob("*.qpuc"))) == 2


@pytest.mark.parametrize("value", ["", "0", "off", "OFF", "none"])
def test_off(value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPU_CACHE_DIR", value)
    assert cache_directory() is None
    source = Source()
    for _ in range(2):
        assert not build(IDENTITY, source).from_cache
    assert source.calls == 2
    assert not list(tmp_path.iterdir())


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QPU_CACHE_DIR", raising=False)
    for system, variable, place in (
        ("linux", "XDG_CACHE_HOME", tmp_path / "qpu" / "emulator"),
        ("win32", "LOCALAPPDATA", tmp_path / "qpu" / "emulator"),
    ):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setenv(variable, str(tmp_path))
        assert cache_directory() == place
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / "Library" / "Caches" / "qpu" / "emulator"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "qpu" / "emulator"


@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_a_place_that_cannot_be_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and nothing fails."""
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("in the way")
    else:
        place.mkdir()
        place.chmod(0o500)
        if os.access(place, os.W_OK):
            # The administrator writes anywhere: refuse in another way.
            def refused(*args: Any, **kwargs: Any) -> Any:
                raise PermissionError(13, "read-only")

            monkeypatch.setattr("tempfile.mkstemp", refused)
    monkeypatch.setenv("QPU_CACHE_DIR", str(place))
    source = Source()
    for _ in range(2):
        assert result(build(IDENTITY, source)) == 7
    assert source.calls == 2


def test_a_full_disk_leaves_no_scraps(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert result(build(IDENTITY, Source())) == 7
    assert not list(cache.iterdir())


def test_the_oldest_entries_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(IDENTITY, Source())
    size = only(cache).stat().st_size
    monkeypatch.setattr(compiled, "CACHE_LIMIT", 3 * size + size // 2)
    for n in range(1, 6):
        for entry in cache.glob("*.qpuc"):  # age all by a minute
            old = entry.stat().st_mtime - 60
            os.utime(entry, (old, old))
        build(b"%d" % n, Source())
    left = list(cache.glob("*.qpuc"))
    assert len(left) == 3
    assert sum(e.stat().st_size for e in left) <= compiled.CACHE_LIMIT
    for n in (3, 4, 5):
        assert build(b"%d" % n, Source()).from_cache
    assert not build(IDENTITY, Source()).from_cache


def test_use_keeps_an_entry_young(cache: Path) -> None:
    build(IDENTITY, Source())
    os.utime(only(cache), (1000, 1000))
    build(IDENTITY, Source())
    assert only(cache).stat().st_mtime > 1000


def test_scraps_of_processes_that_died_go(cache: Path) -> None:
    build(IDENTITY, Source())
    old, young = cache / ".new-old", cache / ".new-young"
    for scrap in (old, young):
        scrap.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    build(b"other", Source())
    assert not old.exists()
    assert young.exists()  # another process may be writing it


def test_threads_share_a_translation(cache: Path) -> None:
    source = Source()
    threads = [threading.Thread(target=build, args=(IDENTITY, source)) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert source.calls == 1


PROCESS = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from test_translation_cache import Source, build, result
for round in range(20):
    for n in range(6):
        code = build(b"%d" % n, Source(n))
        assert result(code) == n, (n, result(code))
        assert code.meta == {"number": n}
"""


def test_processes_at_once(cache: Path) -> None:
    """Several processes write and read the same entries: all get whole ones."""
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(list(cache.glob("*.qpuc"))) == 6
    assert not list(cache.glob(".new-*"))
