"""Program files: hex text, raw binary, C source with header, ELF objects."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qpu.errors import UsageError

__all__ = [
    "BadWord",
    "Symbols",
    "c_identifier",
    "looks_like_hex",
    "read_hex",
    "read_programs",
    "read_words",
    "write_binary",
    "write_c",
    "write_elf",
    "write_header",
    "write_hex",
]

SHOWN = 60  # characters of a bad word in its message
EM_ARM = 40
EF_ARM_EABI5 = 0x05000000


class BadWord(UsageError):
    """A line of a hex file that is no 64-bit word. `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        shown = repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}... ({len(text)} characters)"
        super().__init__(f"line {line}: {shown} is no 64-bit word; write up to 16 hexadecimal digits, 0x is optional")
        self.line = line
        self.text = text


@dataclass(frozen=True, slots=True)
class Symbols:
    """Names a program exports. labels: name -> byte offset of the code; values: name -> integer or float."""

    labels: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int | float] = field(default_factory=dict)


# -- reading

_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})\Z")


def read_hex(text: str) -> list[list[int]]:
    """Programs of a hex file: one word a line, ``0x`` optional, ``#`` comments; blank lines separate programs.

    Lines in vc4asm's form ``0xLOW, 0xHIGH,`` are taken too. Raises: BadWord.
    """
    programs: list[list[int]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        body = re.sub(r"/\*.*?\*/|//.*|#.*", "", line).strip()
        if not body:
            if not line.strip() and programs[-1]:
                programs.append([])
            continue
        parts = [p.strip() for p in body.rstrip(",").split(",")]
        if len(parts) == 2:
            low, high = (_HEX.match(p) for p in parts)
            if low is None or high is None or len(low[1]) > 8 or len(high[1]) > 8:
                raise BadWord(number, body)
            programs[-1].append(int(low[1], 16) | int(high[1], 16) << 32)
            continue
        for part in parts[0].split() if len(parts) == 1 else parts:
            match = _HEX.match(part)
            if match is None:
                raise BadWord(number, part)
            programs[-1].append(int(match[1], 16))
    if not programs[-1]:
        programs.pop()
    return programs


def looks_like_hex(data: bytes) -> bool:
    """Whether the first line with content holds a 64-bit word of 16 digits or with 0x: such a file is meant as hex."""
    for line in data.decode("utf-8-sig", "replace").splitlines():
        body = line.partition("#")[0].strip()
        if body:
            return re.match(r"(0[xX][0-9a-fA-F]{1,16}|[0-9a-fA-F]{16})\b", body) is not None
    return False


def _words(data: bytes) -> list[int]:
    if len(data) % 8:
        raise UsageError(f"binary code of {len(data)} bytes is no whole number of 8-byte instructions")
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


def _symbol(elf: Any, name: str) -> bytes:
    for table in elf.iter_sections():
        if table["sh_type"] not in ("SHT_SYMTAB", "SHT_DYNSYM"):
            continue
        for symbol in table.get_symbol_by_name(name) or ():
            index = symbol["st_shndx"]
            if not isinstance(index, int):
                continue
            section = elf.get_section(index)
            start = symbol["st_value"] - (0 if elf["e_type"] == "ET_REL" else section["sh_addr"])
            size = symbol["st_size"] or section.data_size - start
            return bytes(section.data()[start : start + size])
    raise UsageError(f"no symbol {name!r} with data in this ELF file; found: {_some(_symbol_names(elf))}")


def _symbol_names(elf: Any) -> list[str]:
    names: list[str] = []
    for table in elf.iter_sections():
        if table["sh_type"] in ("SHT_SYMTAB", "SHT_DYNSYM"):
            names += [s.name for s in table.iter_symbols() if s.name and isinstance(s["st_shndx"], int)]
    return sorted(set(names))


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:12]) + (", ..." if len(known) > 12 else "") if known else "none"


def _elf_words(data: bytes, section: str | None, symbol: str | None) -> list[int]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf: Any = ELFFile(io.BytesIO(data))
        if symbol is not None:
            return _words(_symbol(elf, symbol))
        names = [s.name for s in elf.iter_sections() if s.name]
        if section is not None:
            found = elf.get_section_by_name(section)
            if found is None:
                raise UsageError(f"no section {section!r} in this ELF file; found: {_some(names)}")
            return _words(bytes(found.data()))
        for name in (".rodata", ".text", ".data"):
            found = elf.get_section_by_name(name)
            if found is not None and found.data_size and found["sh_type"] == "SHT_PROGBITS":
                if elf["e_type"] != "ET_REL":
                    break
                return _words(bytes(found.data()))
    except ELFError as error:
        raise UsageError(f"this ELF file cannot be read: {error}") from None
    raise UsageError(f"which code? name a section ({_some(names)}) or a symbol")


def read_programs(data: bytes, *, section: str | None = None, symbol: str | None = None) -> list[list[int]]:
    """The programs in a file: ELF (by section or symbol), hex text (blank lines separate programs), else raw binary.

    Text is UTF-8 (a byte order mark is passed over) without control characters: comments may be in any language.
    Raises: UsageError, BadWord.
    """
    if data[:4] == b"\x7fELF":
        return [_elf_words(data, section, symbol)]
    if section is not None or symbol is not None:
        raise UsageError("only ELF files have sections and symbols; this is none")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if looks_like_hex(data):
            raise UsageError(f"this hex file is no UTF-8 text (byte {error.start}); save it as UTF-8") from None
    else:
        if all(c.isprintable() or c in "\r\n\t\f" for c in text):
            return read_hex(text)
    return [_words(data)]


def read_words(data: bytes, *, section: str | None = None, symbol: str | None = None) -> list[int]:
    """As `read_programs`, all words in one list."""
    return [w for program in read_programs(data, section=section, symbol=symbol) for w in program]


# -- writing


def write_hex(words: Iterable[int]) -> str:
    """One word of 16 digits a line, no prefix."""
    return "".join(f"{w:016x}\n" for w in words)


def write_binary(words: Iterable[int]) -> bytes:
    """The words, little-endian."""
    return b"".join(w.to_bytes(8, "little") for w in words)


def c_identifier(name: str) -> str:
    """`name` as a C identifier: everything else becomes an underscore."""
    text = re.sub(r"[^0-9A-Za-z_]", "_", name) or "_"
    return "_" + text if text[0].isdigit() else text


def write_c(words: Sequence[int], name: str, *, header: str | None = None, comments: Sequence[str] = ()) -> str:
    """C source with an 8-byte aligned ``uint32_t name[]`` (low word first). comments: one a word, or none."""
    lines = [f'#include "{header}"' if header else "#include <stdint.h>", ""]
    lines += ["#ifdef __cplusplus", 'extern "C" {', "#endif", "", "#ifdef _MSC_VER", "__declspec(align(8))"]
    lines += ["#elif defined(__GNUC__)", "__attribute__((aligned(8)))", "#endif"]
    lines.append(f"uint32_t {name}[{2 * len(words)}] = {{")
    for i, word in enumerate(words):
        comma = "," if i + 1 < len(words) else ""
        remark = f" /* {comments[i].replace('*/', '* /')} */" if i < len(comments) and comments[i] else ""
        lines.append(f"\t0x{word & 0xFFFFFFFF:08x}, 0x{word >> 32:08x}{comma}{remark}")
    lines += ["};", "", "#ifdef __cplusplus", "}", "#endif", ""]
    return "\n".join(lines)


def write_header(words: Sequence[int], name: str, symbols: Symbols | None = None) -> str:
    """The header that goes with `write_c`: the array, a macro for each exported value and label."""
    names = symbols or Symbols()
    guard = f"{name.upper()}_H"
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", ""]
    lines += ["#ifdef __cplusplus", 'extern "C" {', "#endif", "", f"extern uint32_t {name}[{2 * len(words)}];", ""]
    for key, value in names.values.items():
        lines.append(f"#define {c_identifier(key)} {value!r}")
    for key, offset in names.labels.items():
        lines.append(f"#define {c_identifier(key)} ({name} + {offset // 4})")
    lines += ["", "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", ""]
    return "\n".join(lines)


def write_elf(words: Sequence[int], name: str, symbols: Symbols | None = None) -> bytes:
    """An ELF32 little-endian Arm object: the code in .rodata, symbols `name`, `name_end`, `name_size` and exports.

    Layout as vc4asm users expect it (vc4.md section 22.8): section headers right behind the ELF header, no
    relocations, integers exported as absolute symbols.
    """
    exported = symbols or Symbols()
    code = write_binary(words)
    section_names = b"\0.shstrtab\0.rodata\0.symtab\0.strtab\0"
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        at = len(strings)
        strings.extend(text.encode() + b"\0")
        return at

    absolute, rodata = 0xFFF1, 2
    entries = [struct.pack("<IIIBBH", 0, 0, 0, 0, 0, 0), struct.pack("<IIIBBH", string(name), 0, 0, 4, 0, absolute)]
    global_object = 1 << 4 | 1
    base = c_identifier(name)
    rows = [
        (base, 0, len(code), rodata),
        (f"{base}_end", len(code), 0, rodata),
        (f"{base}_size", len(code), 0, absolute),
    ]
    rows += [(key, offset, 0, rodata) for key, offset in exported.labels.items()]
    rows += [(key, v & 0xFFFFFFFF, 0, absolute) for key, v in exported.values.items() if isinstance(v, int)]
    for text, value, size, index in rows:
        entries.append(struct.pack("<IIIBBH", string(text), value, size, global_object, 0, index))
    table = b"".join(entries)

    header_size, entry_size, count = 52, 40, 5
    offset = header_size + entry_size * count
    placed: list[tuple[int, bytes]] = []
    for data in (section_names, code, table, bytes(strings)):
        offset = (offset + 7) // 8 * 8
        placed.append((offset, data))
        offset += len(data)
    (o_names, _), (o_code, _), (o_table, _), (o_strings, _) = placed
    at = {n: section_names.index(b"\0" + n + b"\0") + 1 for n in (b".shstrtab", b".rodata", b".symtab", b".strtab")}
    headers = [
        (0,) * 10,
        (at[b".shstrtab"], 3, 0, 0, o_names, len(section_names), 0, 0, 1, 0),
        (at[b".rodata"], 1, 2, 0, o_code, len(code), 0, 0, 4, 0),
        (at[b".symtab"], 2, 0, 0, o_table, len(table), 4, 2, 4, 16),
        (at[b".strtab"], 3, 0, 0, o_strings, len(strings), 0, 0, 1, 0),
    ]
    ident = b"\x7fELF" + bytes((1, 1, 1, 0)) + bytes(8)
    out = bytearray(ident)
    out += struct.pack(
        "<HHIIIIIHHHHHH", 1, EM_ARM, 1, 0, 0, header_size, EF_ARM_EABI5, header_size, 0, 0, entry_size, count, 1
    )
    for row in headers:
        out += struct.pack("<10I", *row)
    for start, data in placed:
        out += bytes(start - len(out)) + data
    return bytes(out)
