"""Tests of mutated sources and files: the answer is always a result or one of the documented errors.

`pytest -m soak` mutates 10,000 sources of each family and 10,000 files of each kind, in shards with a seed each; the
normal run a few of each.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from qpu import formats
from qpu.core.isa import Isa
from qpu.errors import AsmError, DecodeError, HazardError, UsageError
from qpu.instruction_sets import isa
from qpu.vc4.vc4asm import assemble_text

HERE = Path(__file__).parent
ROOT = HERE.parent
VECTORS = HERE / "vectors"
SHARDS = 20
SHARD = 500
SAMPLE = 200


def shards() -> list[object]:
    """(seed, count) of the normal run and of the soak."""
    return [
        pytest.param(0, SAMPLE, id="sample"),
        *(pytest.param(1 + n, SHARD, marks=pytest.mark.soak, id=f"shard{n}") for n in range(SHARDS)),
    ]


def _rows(name: str, key: str, step: int) -> list[str]:
    with gzip.open(VECTORS / name, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row[key] for row in rows[::step] if row.get(key)]


def _strings(path: Path) -> list[str]:
    """Literals of a test file that look like source text."""
    found = re.findall(r'"((?:[^"\\\n]|\\.)*)"', path.read_text(encoding="utf-8"))
    return [text.encode().decode("unicode_escape") for text in found if " " in text]


@cache
def vc4_sources() -> list[str]:
    """Sources of VideoCore IV: the reference's snippets in groups, our own tests, the standard include, the guide."""
    snippets = _rows("vc4_text.jsonl.gz", "text", 1)
    groups = ["\n".join(snippets[i : i + 12]) for i in range(0, len(snippets), 12)]
    own = [text for path in sorted((HERE / "vc4" / "assembler").glob("*.py")) for text in _strings(path)]
    guide = re.findall(r"^```vc4\n(.*?)^```$", (ROOT / "docs" / "vc4-assembly.md").read_text(), re.M | re.S)
    include = (ROOT / "qpu" / "vc4" / "vc4asm" / "vc4.qinc").read_text()
    return [*groups, *own, *guide, *[include] * 20]


@cache
def v3d_sources(which: Isa) -> list[str]:
    """Sources of V3D: vectors in groups, the corpus, the tests."""
    name = "v3d71" if which is Isa.V3D71 else "v3d42"
    lines = _rows(f"{name}.jsonl.gz", "text", 3)
    groups = ["\n".join(lines[i : i + 12]) for i in range(0, len(lines), 12)]
    corpus = [path.read_text() for path in sorted((HERE / "v3d" / "corpus").glob("*.v3d"))]
    own = [text for path in sorted((HERE / "v3d").glob("test_*.py")) for text in _strings(path)]
    return [*groups, *corpus * 10, *own]


ODD = (
    "0x7fffffffffffffff", "-1", "1e39", "99999999999999999999", "ra31", "rb32", "r5", "unif", "-", "nop", ":", ";", ".",
    "<<", ">>", "(", ")", "[", "]", ",", "#", '"', "\0", "\ud800", "\u0663", "\u2028", " ", "\t", "\r", "\n", ".setf",
    ".8a", ".16af", ".pack8a", ".unpack16b", ".rep i, 3", ".endr", ".if 1", ".endif", ".macro m, a", ".endm", ".back 1",
    ".endb", ".func f(a)", ".endf", ".set a, a + 1", ".align 64", ".clone :a, 3", ".include <vc4.qinc>", ":a", ":1f",
    "rf63", "rf0.l", ".abs", "ldtmu", "thrsw", "ldunifrf.rf3", "b.a0", "tmua", "vpm", "; ;",
)  # fmt: skip


def mutated_text(draw: random.Random, sources: Sequence[str]) -> str:
    """A source with one to eight changes: characters, words, lines moved, doubled, lost, or taken from elsewhere."""
    text = draw.choice(sources)
    for _ in range(draw.randint(1, 8)):
        kind = draw.randrange(7)
        at, to = sorted((draw.randrange(len(text) + 1), draw.randrange(len(text) + 1)))
        lines = text.split("\n")
        if kind == 0:
            text = text[:at] + draw.choice(ODD) + text[at:]
        elif kind == 1:
            text = text[:at] + text[min(to, at + draw.randint(1, 6)) :]
        elif kind == 2:
            text = text[:at] + chr(draw.randrange(32, 127)) + text[at + 1 :]
        elif kind == 3:
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(draw.choice(sources).split("\n")))
            text = "\n".join(lines)
        elif kind == 4:
            lines.insert(draw.randrange(len(lines) + 1), lines[draw.randrange(len(lines))])
            text = "\n".join(lines)
        elif kind == 5:
            words = re.findall(r"\w+|\W", text)
            if words:
                words[draw.randrange(len(words))] = draw.choice([*words, *ODD])
            text = "".join(words)
        else:
            del lines[draw.randrange(len(lines))]
            text = "\n".join(lines)
    return text


def check_error(error: AsmError, text: str) -> None:
    """A located error is at a place of the text, and its message is of bounded length."""
    assert error.diagnostics
    assert len(str(error)) < 60_000
    lines = len(re.split(r"\r\n|\r|\n", text))
    for found in error.diagnostics:
        assert found.message and found.rule
        if found.loc is not None and found.loc.file == "<text>":
            assert 1 <= found.loc.line <= lines, found


@pytest.mark.parametrize(("seed", "count"), shards())
def test_vc4_sources(seed: int, count: int) -> None:
    draw = random.Random(f"vc4 {seed}")
    accepted = 0
    for _ in range(count):
        text = mutated_text(draw, vc4_sources())
        try:
            result = assemble_text(text, include_root="/nonexistent")
        except AsmError as error:
            check_error(error, text)
        else:
            accepted += 1
            assert len(result.words) == len(result.locs)
            for word in result.words[:40]:
                isa(Isa.VC4).disassemble(word)
    assert accepted > count // 50  # the mutations are not all nonsense


@pytest.mark.parametrize(("seed", "count"), shards())
@pytest.mark.parametrize("which", [Isa.V3D42, Isa.V3D71], ids=str)
def test_v3d_sources(which: Isa, seed: int, count: int) -> None:
    draw = random.Random(f"{which} {seed}")
    tool, sources = isa(which), v3d_sources(which)
    accepted = 0
    for _ in range(count // 2):
        text = mutated_text(draw, sources)
        try:
            words = tool.assemble(text, check=False).code
        except AsmError as error:
            check_error(error, text)
        else:
            accepted += 1
            for word in words[:40]:  # a .word of the text need not be an instruction
                with suppress(DecodeError):
                    tool.disassemble(word)
            with suppress(HazardError, DecodeError):
                tool.assemble(text, check=True)
    assert accepted > count // 100


# -- files


def _elf64() -> bytes:
    names = b"\0.shstrtab\0.rodata\0"
    head = b"\x7fELF\2\1\1" + bytes(9)
    for value, size in ((1, 2), (183, 2), (1, 4), (0, 8), (0, 8), (64, 8), (0, 4), (64, 2), (0, 2), (0, 2), (64, 2)):
        head += value.to_bytes(size, "little")
    head += (3).to_bytes(2, "little") + (1).to_bytes(2, "little")
    body = 64 + 3 * 64

    def section(*fields: int) -> bytes:
        return b"".join(v.to_bytes(n, "little") for v, n in zip(fields, (4, 4, 8, 8, 8, 8, 4, 4, 8, 8), strict=True))

    rows = bytes(64) + section(1, 3, 0, 0, body, len(names), 0, 0, 1, 0)
    rows += section(11, 1, 2, 0, body + 24, 16, 0, 0, 8, 0)
    return head + rows + names.ljust(24, b"\0") + bytes(range(16))


@cache
def elf_files() -> list[bytes]:
    """ELF objects of both classes."""
    words = [0x100009E7009E7000 + i for i in range(20)]
    symbols = formats.Symbols({"entry": 8, "loop": 16}, {"n": 3})
    return [formats.write_elf(words, "prog", symbols), formats.write_elf(words[:1], "a"), _elf64()]


INTERESTING = (0, 1, 8, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFF8, 0x80000000, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, 0x802)


def mutated_file(draw: random.Random) -> bytes:
    """An ELF file with one to six changes: fields, bytes, runs, its end."""
    data = bytearray(draw.choice(elf_files()))
    for _ in range(draw.randint(1, 6)):
        kind = draw.randrange(5)
        at = draw.randrange(4, max(5, len(data)))
        if kind == 0:
            size = draw.choice((1, 2, 4, 8))
            value = draw.choice(INTERESTING) & ((1 << 8 * size) - 1)
            at -= at % size
            data[at : at + size] = value.to_bytes(size, "little")
        elif kind == 1 and len(data) > at:
            data[at] = draw.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.randint(1, 16))
        else:
            data += bytes(draw.choice((0, 255)) for _ in range(draw.randint(1, 64)))
    return bytes(data)


READERS: tuple[Callable[[bytes], object], ...] = (
    formats.read_programs,
    lambda data: formats.read_words(data, section=".rodata"),
    lambda data: formats.read_words(data, section=".qpu"),
    lambda data: formats.read_words(data, symbol="prog"),
    lambda data: formats.read_words(data, symbol="nothing"),
)


@pytest.mark.parametrize(("seed", "count"), shards())
def test_elf_files(seed: int, count: int) -> None:
    draw = random.Random(f"elf {seed}")
    for _ in range(count):
        data = mutated_file(draw)
        for read in READERS:
            try:
                read(data)
            except UsageError as error:
                assert 0 < len(str(error)) < 2_000


@pytest.mark.parametrize(("seed", "count"), shards())
def test_hex_and_c_files(seed: int, count: int) -> None:
    draw = random.Random(f"hex {seed}")
    words = [0x100009E7009E7000 + i for i in range(6)]
    sources = [formats.write_hex(words), formats.write_c(words, "prog"), "0x1, 0x2,\n# x\n", "MESA prog 1:\n0x1 nop\n"]
    for _ in range(count):
        data = mutated_text(draw, sources).encode("utf-8", "surrogatepass")
        try:
            formats.read_programs(data)
        except UsageError as error:
            assert 0 < len(str(error)) < 2_000
