"""The cache of translated programs on disk. It is a trust boundary: the code that it returns is executed.

The body of an entry is a line of JSON metadata and the object code. The object code contains the digest of its metadata
(see `qpu.emu.engine.native`), so mixed-up parts are misses; `qpu.core.cache_files` says who may write entries.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from pathlib import Path
from typing import Any

from qpu.core.cache_files import CacheFiles, base_directory, chosen_directory

__all__ = ["CACHE_LIMIT", "ENTRY_LIMIT", "cache_directory", "digest", "load", "load_note", "store"]

CACHE_LIMIT = 256 << 20  # bytes; above the limit the oldest entries are evicted
ENTRY_LIMIT = 64 << 20  # bytes of one entry
SUFFIX = ".qpuc"
_said: set[str] = set()


def cache_directory() -> Path | None:
    """The directory of the cache; None when it is off (QPU_CACHE_DIR empty, ``0``, ``off``) or without a home."""
    chosen = chosen_directory()
    if chosen is not None:
        return chosen if isinstance(chosen, Path) else None
    base = base_directory()
    return base / "emulator" if base else None


def digest(data: bytes) -> bytes:
    """16 bytes that stand for `data`."""
    return hashlib.blake2b(data, digest_size=16).digest()


def _files(directory: Path) -> CacheFiles:
    return CacheFiles(
        directory, SUFFIX, "translations", lambda data: digest(data).hex(), CACHE_LIMIT, ENTRY_LIMIT, _said
    )


def load(directory: Path, key: str) -> tuple[dict[str, Any], bytes] | None:
    """Metadata and object code of an entry; None when there is none, or none that is whole and trusted."""
    found = _parts(directory, key)
    return found if found is not None and _whole_object(found[1]) else None


def load_note(directory: Path, key: str) -> dict[str, Any] | None:
    """Metadata of an entry without code; None when there is none, or none that is whole and trusted."""
    found = _parts(directory, key)
    return None if found is None else found[0]


def _parts(directory: Path, key: str) -> tuple[dict[str, Any], bytes] | None:
    body = _files(directory).load(key)
    if body is None:
        return None
    head, _, code = body.partition(b"\n")
    try:
        meta = json.loads(head)
    except (ValueError, RecursionError):
        return None  # damaged
    return (meta, code) if isinstance(meta, dict) else None


def _whole_object(code: bytes) -> bool:
    """Whether all parts of an ELF file lie inside it: LLVM trusts the headers. Other formats are taken as they are."""
    if code[:4] != b"\x7fELF":
        return bool(code) and not sys.platform.startswith("linux")
    if len(code) < 64 or code[4] != 2:
        return False
    at, entry, count = (*struct.unpack_from("<Q", code, 40), *struct.unpack_from("<HH", code, 58))
    if entry != 64 or at + entry * count > len(code):
        return False
    for n in range(count):
        kind, offset, size = (
            *struct.unpack_from("<I", code, at + 64 * n + 4),
            *struct.unpack_from("<QQ", code, at + 64 * n + 24),
        )
        if kind != 8 and offset + size > len(code):  # 8: no bits in the file
            return False
    return True


def store(directory: Path, key: str, meta: str, code: bytes) -> None:
    """Write or replace an entry, and keep the cache within its limit; nothing happens where that is not possible."""
    _files(directory).store(key, meta.encode() + b"\n" + code)
