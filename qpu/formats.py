"""Readers and writers of program files: hex text, raw binary, C source with header, ELF objects."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qpu.errors import UsageError, counted

__all__ = [
    "BadWord", "Symbols", "c_identifier", "looks_like_hex", "read_c", "read_hex", "read_programs", "read_words",
    "write_binary", "write_c", "write_elf", "write_header", "write_hex",
]  # fmt: skip

SHOWN = 60  # characters of a bad word in its message
EM_ARM = 40
EF_ARM_EABI5 = 0x05000000


class BadWord(UsageError):
    """A line of a hex file that is not a 64-bit word. `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        shown = repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}... ({counted(len(text), 'character')})"
        self.found = f"line {line}: {shown} is not a 64-bit word"
        super().__init__(self.found, help="write up to 16 hexadecimal digits")
        self.line = line
        self.text = text


@dataclass(frozen=True, slots=True)
class Symbols:
    """Names a program exports. labels: name -> byte offset of the code; values: name -> integer or float."""

    labels: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, int | float] = field(default_factory=dict)


# -- reading

_DUMPED = re.compile(r"0x([0-9a-fA-F]{16})\s+(?!0x)[a-z.]")  # a word and its text, as Mesa prints them
_HEADLINE = re.compile(r"[A-Z][A-Z_]+ (?:prog|program) .*:\Z")
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})\Z")


def read_hex(text: str) -> list[list[int]]:
    """Programs of a hex file: one word a line, ``0x`` optional, ``#`` comments; blank lines separate programs.

    Lines in vc4asm's form ``0xLOW, 0xHIGH,`` are accepted, too, and program dumps of the driver: a headline that ends
    with a colon, then lines of a word and its disassembly. Raises: BadWord.
    """
    programs: list[list[int]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        body = re.sub(r"/\*.*?\*/|//.*|#.*", "", line).strip()
        if not body:
            if not line.strip() and programs[-1]:
                programs.append([])
            continue
        dumped = _DUMPED.match(body)
        if dumped is not None:
            programs[-1].append(int(dumped[1], 16))
            continue
        if _HEADLINE.match(body):
            if programs[-1]:
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
    """Whether a file is read as hex: the first line that is not empty has a word of 16 digits or with 0x."""
    for line in data.decode("utf-8-sig", "replace").splitlines():
        body = line.partition("#")[0].strip()
        if body:
            return re.match(r"(0[xX][0-9a-fA-F]{1,16}|[0-9a-fA-F]{16})\b", body) is not None
    return False


def _words(data: bytes | memoryview) -> list[int]:
    if len(data) % 8:
        raise UsageError(
            f"binary code has {counted(len(data), 'byte')}, which is not a multiple of 8",
            help="pass whole 64-bit words",
        )
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


# -- C source

_C_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)", re.S)
_C_ARRAY = re.compile(r"\b(u?int(?:32|64)_t)\s+(\w+)\s*\[[^\]\[]{0,80}\][^={};]{0,80}=\s*\{([^{}]*)\}")
_C_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|[0-9]+)(?=[uUlL]*\Z)")


def _c_value(item: str, bits: int, array: str) -> int:
    match = _C_NUMBER.match(item)
    base = 16 if item[:2] in ("0x", "0X") else 8 if item.startswith("0") else 10
    try:
        value = int(match[0], base) if match is not None and len(match[0]) <= SHOWN else -1
    except ValueError:  # an octal number with 8 or 9
        value = -1
    if not 0 <= value < 1 << bits:
        shown = repr(item[:SHOWN]) + ("..." if len(item) > SHOWN else "")
        message = f"{shown} in the array {array!r} is not a number of {bits} bits"
        raise UsageError(message, help="use hexadecimal numbers")
    return value


def read_c(text: str) -> dict[str, list[int]]:
    """Programs of a C source: the arrays of ``uint64_t``, or of ``uint32_t`` with the low half of each word first.

    Returns: array name -> words. Raises: UsageError.
    """
    found: dict[str, list[int]] = {}
    for kind, name, body in _C_ARRAY.findall(_C_COMMENT.sub(" ", text)):
        bits = 64 if "64" in kind else 32
        values = [_c_value(item.strip(), bits, name) for item in body.split(",") if item.strip()]
        if bits == 32:
            if len(values) % 2:
                message = f"the array {name!r} has {counted(len(values), 'element')} of 32 bits"
                raise UsageError(message, help="write two for each instruction, the low half first")
            values = [low | high << 32 for low, high in zip(values[::2], values[1::2], strict=True)]
        found[name] = values
    return found


# -- ELF objects

_SYMBOL_TABLES = ("SHT_SYMTAB", "SHT_DYNSYM")
_COMPRESSED = 0x800


def _unreadable(why: object) -> UsageError:
    return UsageError(f"this ELF file cannot be read: {why}", help="make the file again; it may be damaged")


class _Elf:
    """An ELF file whose headers, names and sections are checked against its size before they are used.

    pyelftools provides the layouts of both classes and byte orders. Its functions for names and sections trust the
    file: they inflate compressed sections without limit, and a name may be as long as the file, once for each header.
    """

    def __init__(self, data: bytes) -> None:
        from elftools.elf.elffile import ELFFile

        self.data = data
        self._stream = io.BytesIO(data)
        try:
            self._elf: Any = ELFFile(self._stream)
        except Exception as error:  # a damaged header raises errors of many types
            raise _unreadable(error or type(error).__name__) from None
        self.relocatable: bool = self._elf["e_type"] == "ET_REL"
        layout = self._elf.structs.Elf_Shdr
        start, size, count = self._elf["e_shoff"], self._elf["e_shentsize"], self._elf["e_shnum"]
        if count and (size < layout.sizeof() or start + size * count > len(data)):
            raise _unreadable(f"its {count} section headers go beyond its end")
        self.sections: list[Any] = [self._parse(layout, start + size * i) for i in range(count)]
        names = self._elf["e_shstrndx"]
        self._names = self.sections[names] if isinstance(names, int) and names < count else None

    def _parse(self, layout: Any, at: int) -> Any:
        from elftools.common.exceptions import ELFError
        from elftools.common.utils import struct_parse

        try:
            return struct_parse(layout, self._stream, at)
        except ELFError as error:
            raise _unreadable(error) from None

    def _inside(self, section: Any) -> bool:
        return bool(section["sh_type"] != "SHT_NOBITS" and section["sh_offset"] + section["sh_size"] <= len(self.data))

    def _named(self, strings: Any, at: int, name: bytes) -> bool:
        """True when the string at `at` of a string table is `name`."""
        start = strings["sh_offset"] + at
        return at < strings["sh_size"] and self.data[start : start + len(name) + 1] == name + b"\0"

    def _string(self, strings: Any, at: int) -> str:
        """The first `SHOWN` characters of a string of a string table."""
        if strings is None or not self._inside(strings) or at >= strings["sh_size"]:
            return ""
        start = strings["sh_offset"] + at
        return self.data[start : start + SHOWN].partition(b"\0")[0].decode("utf-8", "replace")

    def name(self, section: Any) -> str:
        """The name of a section, cut to a length for messages."""
        return self._string(self._names, section["sh_name"])

    def section(self, name: str) -> Any:
        """The first section of that name, or None."""
        names = self._names
        if names is None or not self._inside(names):
            return None
        return next((s for s in self.sections if self._named(names, s["sh_name"], name.encode())), None)

    def content(self, section: Any) -> memoryview:
        """The bytes of a section. Raises: UsageError when the file does not hold them."""
        what = f"section {self.name(section)!r}"
        if section["sh_type"] == "SHT_NOBITS":
            raise UsageError(f"{what} has no bytes in this ELF file (NOBITS)", help="name another section or a symbol")
        if section["sh_flags"] & _COMPRESSED:
            raise UsageError(f"{what} is compressed", help="unpack it: objcopy --decompress-debug-sections IN OUT")
        start, size = section["sh_offset"], section["sh_size"]
        if start + size > len(self.data):
            raise _unreadable(f"{what} is cut off, it ends at byte {start + size} of {len(self.data)}")
        return memoryview(self.data)[start : start + size]

    def _tables(self) -> Iterator[tuple[Any, Any]]:
        """Symbol tables with their strings."""
        least = self._elf.structs.Elf_Sym.sizeof()
        for table in self.sections:
            if table["sh_type"] in _SYMBOL_TABLES and table["sh_link"] < len(self.sections):
                strings = self.sections[table["sh_link"]]
                if table["sh_entsize"] >= least and self._inside(table) and self._inside(strings):
                    yield table, strings

    def _symbols(self, table: Any) -> Iterator[tuple[int, int]]:
        """(place of the symbol, place of its name in the strings) for every symbol of a table."""
        order = "little" if self._elf.little_endian else "big"
        for at in range(table["sh_offset"], table["sh_offset"] + table["sh_size"], table["sh_entsize"]):
            yield at, int.from_bytes(self.data[at : at + 4], order)  # type: ignore[arg-type]  # a literal

    def symbol(self, name: str) -> memoryview:
        """The bytes that a symbol names."""
        for table, strings in self._tables():
            for at, where in self._symbols(table):
                if not self._named(strings, where, name.encode()):
                    continue
                symbol = self._parse(self._elf.structs.Elf_Sym, at)
                index = symbol["st_shndx"]
                if not isinstance(index, int) or not index:
                    continue  # absolute, common or undefined
                if index >= len(self.sections):
                    raise _unreadable(f"symbol {name!r} is in section {index}, which does not exist")
                section = self.sections[index]
                content = self.content(section)
                start = symbol["st_value"] - (0 if self.relocatable else section["sh_addr"])
                size = symbol["st_size"] or len(content) - start
                if not 0 <= start <= start + size <= len(content):
                    raise _unreadable(f"symbol {name!r} lies outside its section {self.name(section)!r}")
                return content[start : start + size]
        raise _missing(f"no symbol {name!r} with data in this ELF file", self.symbol_names())

    def symbol_names(self) -> list[str]:
        """Names of symbols, for messages."""
        names: set[str] = set()
        for table, strings in self._tables():
            for at, where in self._symbols(table):
                if len(names) > SHOWN:
                    break
                name = self._string(strings, where)
                if name and isinstance(self._parse(self._elf.structs.Elf_Sym, at)["st_shndx"], int):
                    names.add(name)
        return sorted(names)


def _some(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:12]) + (", ..." if len(known) > 12 else "") if known else "none"


def _missing(what: str, names: Iterable[str]) -> UsageError:
    return UsageError(f"{what}; found: {_some(names)}", help="name another one, or leave the option out")


def _elf_words(data: bytes, section: str | None, symbol: str | None) -> list[int]:
    elf = _Elf(data)
    if symbol is not None:
        return _words(elf.symbol(symbol))
    names = [name for name in map(elf.name, elf.sections) if name]
    if section is not None:
        found = elf.section(section)
        if found is None:
            raise _missing(f"no section {section!r} in this ELF file", names)
        return _words(elf.content(found))
    if elf.relocatable:
        for name in (".rodata", ".text", ".data"):
            found = elf.section(name)
            if found is not None and found["sh_size"]:
                return _words(elf.content(found))
    raise UsageError("this ELF file has several sections", help=f"name a section ({_some(names)}) or a symbol")


# -- any file


def read_programs(data: bytes, *, section: str | None = None, symbol: str | None = None) -> list[list[int]]:
    """The programs in a file: ELF (by section or symbol), C arrays (symbol: the name of one), hex text, else binary.

    In hex text blank lines separate programs. Text is UTF-8, with or without a byte order mark, without control
    characters; comments may be in any language.
    Raises: UsageError, BadWord.
    """
    if data[:4] == b"\x7fELF":
        return [_elf_words(data, section, symbol)]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if looks_like_hex(data):
            raise UsageError(f"this hex file is not UTF-8 text (byte {error.start})", help="save it as UTF-8") from None
        text = ""
    arrays = read_c(text) if "{" in text else {}
    if arrays and section is None:
        if symbol is None:
            return list(arrays.values())
        if symbol not in arrays:
            raise _missing(f"no array {symbol!r} in this C source", arrays)
        return [arrays[symbol]]
    if section is not None or symbol is not None:
        raise UsageError("this is not an ELF file with sections and symbols", help="leave the option out")
    if text and all(c.isprintable() or c in "\r\n\t\f" for c in text):
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
        comment = f" /* {comments[i].replace('*/', '* /')} */" if i < len(comments) and comments[i] else ""
        lines.append(f"\t0x{word & 0xFFFFFFFF:08x}, 0x{word >> 32:08x}{comma}{comment}")
    lines += ["};", "", "#ifdef __cplusplus", "}", "#endif", ""]
    return "\n".join(lines)


def write_header(words: Sequence[int], name: str, symbols: Symbols | None = None) -> str:
    """The header for the source of `write_c`: the array, a macro for each exported value and label."""
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

    Layout as vc4asm users expect it (vc4.md section 22.8): section headers right after the ELF header, no
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
