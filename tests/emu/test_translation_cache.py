"""Tests of the cache of translations on disk: entries that are read, ignored or replaced, and its size."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HUNG_S

pytest.importorskip("llvmlite", reason="llvmlite is not installed: the compiled engine is an extra")

from llvmlite import ir

from qpu.emu.engine import code_cache
from qpu.emu.engine import native as compiled
from qpu.emu.engine.code_cache import cache_directory
from qpu.emu.engine.host_cpu import host, is_x86
from qpu.emu.engine.native import build

IDENTITY = b"a program"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setattr(code_cache, "_said", set())
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


def test_the_key_tells_hosts_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one = host()
    fields = ({}, {"cpu": one.cpu + "x"}, {"features": one.features + ",+x"}, {"plain": not one.plain})
    keys = set()
    for other in fields:
        monkeypatch.setattr(compiled, "host", lambda other=other: replace(one, **other))
        keys.add(compiled._key(IDENTITY, 1))
    assert len(keys) == len(fields)


def sealed(key: str, meta: bytes, code: bytes) -> bytes:
    """An entry that is whole: the digest is right, whatever the parts are."""
    return code_cache._files(Path()).sealed(key, meta + b"\n" + code)


def parts(data: bytes) -> tuple[bytes, bytes]:
    meta, _, code = data[33:].partition(b"\n")
    return meta, code


# (key, whole entry) -> what lies there instead
DAMAGES: dict[str, Callable[[str, bytes], bytes]] = {
    "empty": lambda key, data: b"",
    "only the digest": lambda key, data: data[:33],
    "only the metadata": lambda key, data: data[: data.index(b"\n", 33)],
    "half": lambda key, data: data[: len(data) // 2],
    "one byte of code": lambda key, data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:],
    "one byte of metadata": lambda key, data: data.replace(b'"number":7', b'"number":8'),
    "noise": lambda key, data: bytes(range(256)) * 20,
    "JSON in front": lambda key, data: b"[1]\n" + data,
    "another entry": lambda key, data: sealed("f" * 40, *parts(data)),
    # whole entries: the digest over the file is right
    "no metadata": lambda key, data: sealed(key, b"", parts(data)[1]),
    "null": lambda key, data: sealed(key, b"null", parts(data)[1]),
    "empty metadata": lambda key, data: sealed(key, b"{}", parts(data)[1]),
    "a list": lambda key, data: sealed(key, b"[1,2]", parts(data)[1]),
    "other counts": lambda key, data: sealed(key, b'{"number":8}', parts(data)[1]),
    "deep nesting": lambda key, data: sealed(key, b"[" * 200_000, parts(data)[1]),
    "a long number": lambda key, data: sealed(key, b"1" * 5000, parts(data)[1]),
    "not UTF-8": lambda key, data: sealed(key, b"\xff\xfe", parts(data)[1]),
    "no code": lambda key, data: sealed(key, parts(data)[0], b""),
    "noise as code": lambda key, data: sealed(key, parts(data)[0], bytes(range(256)) * 20),
    "half of the code": lambda key, data: sealed(key, parts(data)[0], parts(data)[1][: len(parts(data)[1]) // 2]),
    "head of the code": lambda key, data: sealed(key, parts(data)[0], parts(data)[1][:64]),
    "code without its end": lambda key, data: sealed(key, parts(data)[0], parts(data)[1][:-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_entries_are_ignored_and_replaced(cache: Path, damage: str) -> None:
    source = Source()
    build(IDENTITY, source)
    entry = only(cache)
    good = entry.read_bytes()
    assert sealed(entry.stem, *parts(good)) == good
    entry.write_bytes(DAMAGES[damage](entry.stem, good))
    again = build(IDENTITY, source)
    assert not again.from_cache
    assert result(again) == 7
    assert source.calls == 2
    assert build(IDENTITY, source).from_cache
    assert parts(only(cache).read_bytes())[0] == parts(good)[0] == b'{"number":7}'


def test_every_cut_of_an_object_file_is_refused(cache: Path) -> None:
    build(IDENTITY, Source())
    code = parts(only(cache).read_bytes())[1]
    assert code_cache._whole_object(code)
    assert not any(code_cache._whole_object(code[:n]) for n in range(len(code)))


def test_a_section_that_begins_inside_the_file_ends_inside_it(cache: Path) -> None:
    build(IDENTITY, Source())
    code = parts(only(cache).read_bytes())[1]
    (table,), (count,) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<H", code, 60)
    for n in range(count):
        header = table + 64 * n
        (kind,), (offset,) = struct.unpack_from("<I", code, header + 4), struct.unpack_from("<Q", code, header + 24)
        for size, whole in ((len(code) - offset, True), (len(code) - offset + 1, kind == 8), (1 << 63, kind == 8)):
            changed = bytearray(code)
            struct.pack_into("<Q", changed, header + 32, size)
            assert code_cache._whole_object(bytes(changed)) is whole, (n, kind, size)


@pytest.mark.parametrize(
    "kind", ["fifo", "endless device", "link", "directory", "large", "writable by others", "writable by the group"]
)
def test_only_plain_files_of_this_user_are_read(
    cache: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source()
    build(IDENTITY, source)
    entry = only(cache)
    victim = cache.parent / "victim"
    victim.write_bytes(entry.read_bytes())
    os.utime(victim, (1000, 1000))
    if kind.startswith("writable"):
        entry.chmod(0o662 if kind == "writable by others" else 0o620)
    elif kind == "large":
        monkeypatch.setattr(code_cache, "ENTRY_LIMIT", 100)
    else:
        entry.unlink()
        if kind == "fifo":
            os.mkfifo(entry)
        elif kind == "directory":
            entry.mkdir()
        else:
            entry.symlink_to("/dev/zero" if kind == "endless device" else victim)
    again = build(IDENTITY, source)
    assert not again.from_cache and result(again) == 7 and source.calls == 2
    assert victim.stat().st_mtime == 1000
    if kind not in ("directory", "large"):
        assert entry.is_file() and not entry.is_symlink() and entry.stat().st_mode & 0o777 == 0o600
        assert build(IDENTITY, source).from_cache
    said = capsys.readouterr().err
    assert said.count("\n") == kind.startswith("writable")


@pytest.mark.parametrize("kind", ["foreign", "writable by others", "writable by the group", "link"])
def test_a_directory_that_others_can_write_is_no_cache(
    cache: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source()
    build(IDENTITY, source)
    assert cache.stat().st_mode & 0o777 == 0o700
    before = only(cache).read_bytes()
    if kind == "foreign":
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        if os.getuid() == 0:  # root is trusted: give the directory to somebody else
            os.chown(cache, 4712, -1)
    elif kind != "link":
        cache.chmod(0o777 if kind == "writable by others" else 0o770)
    else:
        real = cache.rename(cache.with_name("real"))
        cache.symlink_to(real)
    for n in (2, 3):
        assert not build(IDENTITY, source).from_cache and source.calls == n
    assert only(cache).read_bytes() == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"qpu: no cache of translations: {cache} " in said and "QPU_CACHE_DIR" in said


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QPU_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_directory() is None


def test_other_sources_translate_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    build(IDENTITY, source)
    monkeypatch.setattr(compiled, "sources_digest", lambda: "of other sources")
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
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "Library" / "Caches" / "qpu" / "emulator"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "qpu" / "emulator"


@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_a_place_that_cannot_be_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cached, and nothing fails."""
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("in the way")
    else:
        place.mkdir()
        place.chmod(0o500)
        if os.access(place, os.W_OK):
            # Root can write anywhere: make the write fail in another way.
            def refused(*args: Any, **kwargs: Any) -> Any:
                raise PermissionError(13, "read-only")

            monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setenv("QPU_CACHE_DIR", str(place))
    source = Source()
    for _ in range(2):
        assert result(build(IDENTITY, source)) == 7
    assert source.calls == 2


def test_a_full_disk_leaves_no_scraps(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert result(build(IDENTITY, Source())) == 7
    assert not list(cache.iterdir())


def test_the_oldest_entries_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(IDENTITY, Source())
    size = only(cache).stat().st_size
    monkeypatch.setattr(code_cache, "CACHE_LIMIT", 3 * size + size // 2)
    for n in range(1, 6):
        for entry in cache.glob("*.qpuc"):  # age all by a minute
            old = entry.stat().st_mtime - 60
            os.utime(entry, (old, old))
        build(b"%d" % n, Source())
    left = list(cache.glob("*.qpuc"))
    assert len(left) == 3
    assert sum(e.stat().st_size for e in left) <= code_cache.CACHE_LIMIT
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
from tests.emu.test_translation_cache import Source, build, result
for round in range(20):
    for n in range(6):
        code = build(b"%d" % n, Source(n))
        assert result(code) == n, (n, result(code))
        assert code.meta == {"number": n}
"""


def test_processes_at_once(cache: Path) -> None:
    """Several processes write and read the same entries: all get whole ones."""
    command = [sys.executable, "-c", PROCESS, str(Path(__file__).parents[2])]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=HUNG_S)
        assert process.returncode == 0, errors
    assert len(list(cache.glob("*.qpuc"))) == 6
    assert not list(cache.glob(".new-*"))


@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_an_unusable_directory_is_reported_once(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(code_cache, "_said", set())
    (tmp_path / "taken").write_bytes(b"")
    directory = tmp_path / "taken" if where == "a file" else tmp_path / "taken" / "cache"
    for _ in range(2):
        code_cache.store(directory, "0" * 64, "{}", b"code")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(directory) in said and "QPU_CACHE_DIR" in said
