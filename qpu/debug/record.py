"""Records of launches: a file with everything that a launch read, written while a program runs.

The format is for strangers' files: magic, then chunks. A chunk is a tag of four letters, the length of its body as u64,
the body, and the CRC-32 of the body as u32, all little-endian. ``HEAD`` is JSON (UTF-8) about a launch, see `Job`;
``DATA`` is the deflated content of one buffer object, in the order in which the last ``HEAD`` lists them; ``DONE`` is
JSON with the SHA-256 of each buffer after the launch. No chunk holds code of the host or names files.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import SEEK_END, PathLike
from typing import IO, Any

from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.files import opened, put
from qpu.drivers.base import CsdJob, DeviceInfo, Job, QpuJob
from qpu.errors import UsageError, block, counted
from qpu.runtime.jobs import OBSERVERS, JobObserver
from qpu.runtime.pool import Contents, MemoryPool

__all__ = ["MAGIC", "Memory", "Recorded", "read_records", "record"]

MAGIC = b"QPUREC1\n"
_LIMIT = 1 << 30  # bytes of all buffers of a launch, uncompressed
_HEAD = 1 << 24  # bytes of JSON
_CSD = ("workgroups", "first", "workgroup_size", "workgroups_per_supergroup", "max_supergroup_id", "threads",
        "single_segment", "propagate_nans", "batches")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """A recorded buffer object. used: bytes that belong to a buffer of the user, 0 for code and uniforms. kind:
    ``buffer``, ``code`` or ``uniforms``. streams: address and bytes of each uniform stream."""

    address: int
    size: int
    used: int
    kind: str
    name: str
    streams: tuple[tuple[int, int], ...]
    data: bytes = b""


@dataclass(slots=True)
class Recorded:
    """A recorded launch. board: name of the emulated board, or model of the real one. job: `Job` of the launch.
    locs: (file, line, source) of each instruction, or None. digests: address -> SHA-256 after the launch, as text."""

    isa: Isa
    board: str
    job: Job
    code: tuple[int, ...]
    locs: list[tuple[str, int, str] | None]
    memory: list[Memory]
    digests: dict[int, str] = field(default_factory=dict)


class _Recorder(JobObserver):
    """Writes launches to an open file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last: list[Contents] = []

    def _chunk(self, tag: bytes, body: bytes) -> None:
        put(self._file, tag + len(body).to_bytes(8, "little") + body + zlib.crc32(body).to_bytes(4, "little"))

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A launch begins."""
        contents = pool.contents(job.bos)
        locs = [program.loc(n) for n in range(len(program))]
        fields: dict[str, Any]
        if isinstance(job, CsdJob):
            fields = {"code": job.code, "uniforms": job.uniforms} | {name: getattr(job, name) for name in _CSD}
        else:
            fields = {"entries": [list(entry) for entry in job.entries]}
        head = {
            "isa": str(info.isa),
            "board": info.emulated or info.board.model,
            "job": fields,
            "program": [f"0x{word:016x}" for word in program.code],
            "locs": [None if loc is None else [loc.file, loc.line, loc.source] for loc in locs],
            "memory": [
                {"address": c.bo.address, "size": c.bo.size, "used": c.used, "kind": c.kind, "name": c.name}
                | {"streams": [list(s) for s in c.streams]}
                for c in contents
            ],
        }
        self._chunk(b"HEAD", json.dumps(head).encode())
        for c in contents:
            self._chunk(b"DATA", zlib.compress(bytes(c.bo.view), 1))
        self._last = contents

    def finished(self) -> None:
        """The last launch has ended well."""
        found = {str(c.bo.address): _digest(bytes(c.bo.view[: c.used])) for c in self._last if c.kind == "buffer"}
        self._chunk(b"DONE", json.dumps(found).encode())
        self._last = []


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@block
def record(path: str | PathLike[str]) -> Iterator[None]:
    """Write every launch of the block to a file: program, uniforms, contents of all buffers, board.

    ``qpu replay FILE`` runs them again, on any computer. Of launches that `Device.run` waits for, the results are
    recorded as well (as digests), so that a replay can compare them. Raises: UsageError where nothing can be written.
    """
    with opened(path, "wb") as file:
        put(file, MAGIC)
        recorder = _Recorder(file)
        OBSERVERS.append(recorder)
        try:
            yield
        finally:
            OBSERVERS.remove(recorder)


# -- reading


def _bad(why: str) -> UsageError:
    return UsageError(f"not a record of launches: {why}", help="make one with qpu.record(); the file may be damaged")


class _Reader:
    """Checked access to the fields of JSON that anybody may have written."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def number(self, name: str, low: int, high: int) -> int:
        value = self._data.get(name)
        if type(value) is not int or not low <= value <= high:
            raise _bad(f"{name} is {str(value)[:40]!r}; allowed: {low}..{high}")
        return value

    def text(self, name: str) -> str:
        value = self._data.get(name)
        if not isinstance(value, str) or len(value) > 1000:
            raise _bad(f"{name} is not a text of up to 1000 characters")
        return _plain(value)

    def items(self, name: str, most: int) -> list[Any]:
        value = self._data.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise _bad(f"{name} is not a list, or it has more than {counted(most, 'item')}")
        return value

    def part(self, name: str) -> _Reader:
        return _reader(self._data.get(name))

    def has(self, name: str) -> bool:
        return self._data.get(name) is not None

    def flag(self, name: str) -> bool:
        value = self._data.get(name)
        if type(value) is not bool:
            raise _bad(f"{name} is neither true nor false")
        return value


def _plain(text: str) -> str:
    """A text of a stranger, without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.expandtabs(4))


def _reader(value: object) -> _Reader:
    if not isinstance(value, dict):
        raise _bad("an object is missing")
    return _Reader(value)


def _numbers(values: object, count: int | None, high: int) -> list[int]:
    if not isinstance(values, list) or (count is not None and len(values) != count):
        raise _bad("a list of numbers has the wrong length")
    if not all(type(v) is int and 0 <= v <= high for v in values):
        raise _bad(f"numbers outside of 0..{high}")
    return values


def _json(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _bad(f"its JSON is damaged ({error})") from None


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    if file.read(len(MAGIC)) != MAGIC:
        raise _bad("it does not begin with QPUREC1")
    size = file.seek(0, SEEK_END)
    file.seek(len(MAGIC))
    while head := file.read(12):
        if len(head) < 12:
            raise _bad("it ends inside a chunk")
        length = int.from_bytes(head[4:], "little")
        if length > min(_LIMIT, size - file.tell()):
            raise _bad(f"a chunk of {length} bytes; allowed: up to {_LIMIT}, and no more than there are")
        body = file.read(length)
        if len(body) < length or file.read(4) != zlib.crc32(body).to_bytes(4, "little"):
            raise _bad("a chunk is cut off or damaged")
        yield head[:4], body


def _head(body: bytes) -> Recorded:
    if len(body) > _HEAD:
        raise _bad(f"a description of {len(body)} bytes; allowed: up to {_HEAD}")
    r = _reader(_json(body))
    name = r.text("isa")
    isa = next((i for i in Isa if str(i) == name), None)
    if isa is None:
        raise _bad(f"{name[:40]!r} is not an instruction set; allowed: {', '.join(map(str, Isa))}")
    top = 0xFFFFFFFF
    job: Job
    j = r.part("job")
    if isa is Isa.VC4:
        pairs = [_numbers(entry, 2, top) for entry in j.items("entries", 64)]
        job = QpuJob(tuple((u, c) for u, c in pairs))
    else:
        counts, first = (_numbers(j.items(n, 3), 3, 65536) for n in ("workgroups", "first"))
        job = CsdJob(
            code=j.number("code", 0, top),
            uniforms=j.number("uniforms", 0, top),
            bos=(),
            workgroups=(counts[0], counts[1], counts[2]),
            first=(first[0], first[1], first[2]),
            workgroup_size=j.number("workgroup_size", 1, 256),
            workgroups_per_supergroup=j.number("workgroups_per_supergroup", 1, 16),
            max_supergroup_id=j.number("max_supergroup_id", 0, 63),
            threads=j.number("threads", 2, 4),
            single_segment=j.flag("single_segment"),
            propagate_nans=j.flag("propagate_nans"),
            batches=j.number("batches", 1, top) if j.has("batches") else None,
        )
    words = [w for w in r.items("program", 1 << 20) if isinstance(w, str)]
    try:
        code = tuple(int(w, 16) for w in words)
    except ValueError:
        raise _bad("an instruction is not a hexadecimal number") from None
    if any(not 0 <= w < 1 << 64 for w in code):
        raise _bad("an instruction has more than 64 bits")
    locs: list[tuple[str, int, str] | None] = []
    for loc in r.items("locs", 1 << 20):
        good = isinstance(loc, list) and len(loc) == 3 and type(loc[1]) is int and 0 <= loc[1] < 1 << 31
        locs.append((_plain(str(loc[0])), loc[1], _plain(str(loc[2]))) if good else None)
    memory = [_memory(_reader(m)) for m in r.items("memory", 1 << 16)]
    if sum(m.size for m in memory) > _LIMIT:
        raise _bad(f"more than {_LIMIT} bytes of buffers")
    return Recorded(isa, r.text("board"), job, code, locs, memory)


def _memory(m: _Reader) -> Memory:
    top = 0xFFFFFFFF
    kind = m.text("kind")
    if kind not in ("buffer", "code", "uniforms"):
        raise _bad(f"a buffer of kind {kind[:40]!r}; allowed: buffer, code, uniforms")
    address, size = m.number("address", 0, top), m.number("size", 1, _LIMIT)
    if address % 4096 or size % 4096 or address + size > 1 << 32:
        raise _bad("a buffer is not made of whole pages")
    streams = [_numbers(s, 2, top) for s in m.items("streams", 64)]
    if any(not address <= a <= a + n <= address + size for a, n in streams):
        raise _bad("a uniform stream lies outside of its buffer")
    return Memory(address, size, m.number("used", 0, size), kind, m.text("name"), tuple((a, n) for a, n in streams))


def _inflated(body: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(body, size + 1)
    except zlib.error as error:
        raise _bad(f"the content of a buffer is damaged ({error})") from None
    if len(data) != size or unpacker.unconsumed_tail:
        raise _bad("the content of a buffer has another size than the buffer")
    return data


def read_records(path: str | PathLike[str]) -> Iterator[Recorded]:
    """The launches of a file, one after another. Raises: UsageError for anything that is not a record."""
    with opened(path, "rb") as file:
        current: Recorded | None = None
        contents: list[Memory] = []
        for tag, body in _chunks(file):
            if tag == b"HEAD":
                if current is not None:
                    yield _complete(current, contents)
                current, contents = _head(body), []
            elif current is None:
                raise _bad(f"a chunk {tag!r} comes before the first launch")
            elif tag == b"DATA":
                if len(contents) >= len(current.memory):
                    raise _bad("there are more contents than buffers")
                m = current.memory[len(contents)]
                data = _inflated(body, m.size)
                contents.append(Memory(m.address, m.size, m.used, m.kind, m.name, m.streams, data))
            elif tag == b"DONE":
                found = _json(body)
                if not isinstance(found, dict):
                    raise _bad("the results are not an object")
                current.digests = {int(k): str(v) for k, v in found.items() if k.isdecimal() and len(k) <= 10}
        if current is not None:
            yield _complete(current, contents)


def _complete(found: Recorded, contents: Sequence[Memory]) -> Recorded:
    if len(contents) != len(found.memory):
        raise _bad("the contents of buffers are missing")
    found.memory = list(contents)
    return found
