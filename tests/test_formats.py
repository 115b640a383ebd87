"""Tests of program files: written files are read back, by the package and by the system's own tools."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given
from hypothesis import strategies as st

from qpu import formats
from qpu.errors import UsageError

WORDS = [0x100009E7009E7000, 0x3C003186BB800000, 0xE0020827FFFFFFFF]
programs = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40)


@given(programs)
def test_hex_and_elf_round_trip(words: list[int]) -> None:
    assert formats.read_words(formats.write_hex(words).encode()) == words
    assert formats.read_words(formats.write_elf(words, "prog")) == words
    assert formats.read_words(formats.write_elf(words, "prog"), symbol="prog") == words


def test_hex_has_sixteen_digits_and_no_prefix() -> None:
    assert formats.write_hex([0x12]) == "0000000000000012\n"


def test_hex_reading_takes_prefix_comments_pairs_and_blank_lines() -> None:
    text = "0x12 # one\n\n\nff\n0x00000001, 0x00000002, // pair\n"
    assert formats.read_hex(text) == [[0x12], [0xFF, 0x2_0000_0001]]


@pytest.mark.parametrize(("text", "line"), [("12\nxyz\n", 2), ("0x11112222333344445\n", 1), ("1, 0x123456789\n", 1)])
def test_bad_hex_names_its_line(text: str, line: int) -> None:
    with pytest.raises(formats.BadWord) as caught:
        formats.read_hex(text)
    assert caught.value.line == line


def test_bad_hex_is_shown_in_part() -> None:
    with pytest.raises(formats.BadWord) as caught:
        formats.read_hex("z" * 5_000_000)
    assert "5000000 characters" in str(caught.value) and len(str(caught.value)) < 250


def test_hex_comments_are_utf_8() -> None:
    data = f"# größe\n{WORDS[0]:016x}  # ½\n".encode()
    assert formats.read_programs(data) == formats.read_programs(b"\xef\xbb\xbf" + data) == [[WORDS[0]]]
    with pytest.raises(UsageError, match="UTF-8"):
        formats.read_programs(f"{WORDS[0]:016x}  # größe".encode("latin-1"))


def test_binary_is_little_endian_and_reads_back() -> None:
    data = formats.write_binary(WORDS)
    assert data[:8] == bytes.fromhex("00709e00e7090010")
    assert formats.read_words(data) == WORDS


def test_odd_binary_is_refused() -> None:
    with pytest.raises(UsageError, match="9 bytes"):
        formats.read_words(b"\xff" * 9)


def test_elf_layout_is_what_vc4asm_users_link() -> None:
    symbols = formats.Symbols({"entry": 8}, {"size": 5, "ratio": 0.5})
    data = formats.write_elf(WORDS, "my-code.o", symbols)
    elf = ELFFile(io.BytesIO(data))
    assert (elf["e_type"], elf["e_machine"], elf["e_flags"]) == ("ET_REL", "EM_ARM", 0x05000000)
    assert elf["e_shoff"] == 52
    assert [s.name for s in elf.iter_sections()] == ["", ".shstrtab", ".rodata", ".symtab", ".strtab"]
    table = {s.name: s for s in elf.get_section_by_name(".symtab").iter_symbols()}
    assert table["my_code_o"]["st_size"] == 24
    assert table["my_code_o_end"]["st_value"] == 24
    assert table["my_code_o_size"]["st_shndx"] == "SHN_ABS"
    assert table["entry"]["st_value"] == 8 and table["entry"]["st_shndx"] == 2
    assert table["size"]["st_value"] == 5 and "ratio" not in table
    assert formats.read_words(data, symbol="entry") == WORDS[1:]
    with pytest.raises(UsageError, match="entry"):
        formats.read_words(data, symbol="nowhere")
    with pytest.raises(UsageError, match=r"\.rodata"):
        formats.read_words(data, section=".qpu")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on this machine")
def test_c_source_compiles_and_its_object_reads_back(tmp_path: Path) -> None:
    (tmp_path / "prog.h").write_text(formats.write_header(WORDS, "prog", formats.Symbols({"loop": 8}, {"n": 3})))
    (tmp_path / "prog.c").write_text(formats.write_c(WORDS, "prog", header="prog.h", comments=["a", "b */ c", ""]))
    main = '#include "prog.h"\nint main(void) { return !(loop == prog + 2 && n == 3 && sizeof prog == 24); }\n'
    (tmp_path / "main.c").write_text(main)
    subprocess.run(["cc", "-Wall", "-Werror", "prog.c", "main.c", "-o", "prog"], cwd=tmp_path, check=True)
    subprocess.run([str(tmp_path / "prog")], check=True)
    executable = (tmp_path / "prog").read_bytes()
    assert formats.read_words(executable, symbol="prog") == WORDS
    with pytest.raises(UsageError, match="symbol"):
        formats.read_words(executable)


def test_c_arrays_are_programs() -> None:
    text = """
    /* a shader as most C programs carry it */
    static const uint32_t shader[] = {
        0x00401a00, 0xe0021c67, // ldi vw_setup, 0x401a00
        0xdeadbeefu, 0xe0020c27, /* { not an end } */
    };
    uint64_t other[2] __attribute__((aligned(8))) = { 0x1ULL, 010 };
    """
    expected = [0xE0021C6700401A00, 0xE0020C27DEADBEEF]
    assert formats.read_programs(text.encode()) == [expected, [1, 8]]
    assert formats.read_words(text.encode(), symbol="shader") == expected
    with pytest.raises(UsageError, match="found: shader, other"):
        formats.read_words(text.encode(), symbol="nothing")
    assert formats.read_words(formats.write_c(WORDS, "prog", comments=["a", "b */ { c", ""]).encode()) == WORDS


@pytest.mark.parametrize(
    ("body", "message"),
    [("1, 2, 3", "3 elements"), ("1, X", "'X'"), ("0x100000000, 0", "32 bits"), ("-1, 0", "'-1'"), ("09, 0", "'09'")],
)
def test_wrong_c_arrays_are_refused(body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        formats.read_words(f"uint32_t a[] = {{ {body} }};".encode())


def test_dumps_of_drivers_are_programs() -> None:
    text = """MESA_SHADER_COMPUTE prog 1/1 QPU:
0x3982e18abb03f002 eidx rf10                     ; nop                         ; ldunifrf.rf11 (ubo[0])
0x39e0218a7c03f282 shl rf10, rf10, 2             ; nop

MESA_SHADER_VERTEX prog 2/1 QPU:
0x38003186bb03f000 nop                           ; nop
"""
    assert formats.read_hex(text) == [[0x3982E18ABB03F002, 0x39E0218A7C03F282], [0x38003186BB03F000]]


# -- damaged ELF files

RODATA = 52 + 2 * 40  # the section header of .rodata in what write_elf writes


def elf_with(*fields: tuple[int, int], tail: bytes = b"") -> bytes:
    """A program whose .rodata header has other fields: (index of the word, value)."""
    data = bytearray(formats.write_elf(list(range(20)), "prog"))
    for index, value in fields:
        struct.pack_into("<I", data, RODATA + 4 * index, value)
    return bytes(data) + tail


@pytest.mark.parametrize("symbol", [None, "prog"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (((1, 8), (5, 0xFFFFFFF8)), "NOBITS"),
        (((2, 0x802), (4, 500), (5, 20)), "compressed"),
        (((5, 0xFFFFFFF8),), "cut off"),
        (((4, 0xFFFFFFF0),), "cut off"),
        (((5, 161),), "is not a multiple of 8|outside"),
    ],
)
def test_damaged_sections_are_refused(fields: tuple[tuple[int, int], ...], message: str, symbol: str | None) -> None:
    data = elf_with(*fields)
    if symbol is not None and fields == ((5, 161),):
        assert formats.read_words(data, symbol=symbol) == list(range(20))
        return
    with pytest.raises(UsageError, match=message):
        formats.read_words(data, symbol=symbol)


def test_compressed_sections_are_never_inflated() -> None:
    packed = struct.pack("<III", 1, 1 << 30, 8) + zlib.compress(bytes(1 << 16), 9)
    at = len(formats.write_elf(list(range(20)), "prog"))
    with pytest.raises(UsageError, match="compressed"):
        formats.read_words(elf_with((2, 0x802), (4, at), (5, len(packed)), tail=packed))


def elf64(offset: int, size: int) -> bytes:
    """A 64-bit ELF object with one .rodata."""
    names = b"\0.shstrtab\0.rodata\0"
    head = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 183, 1, 0, 0, 64, 0, 64, 0, 0, 64, 3, 1)
    body = 64 + 3 * 64
    rows = [bytes(64), struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, body, len(names), 0, 0, 1, 0)]
    rows.append(struct.pack("<IIQQQQIIQQ", 11, 1, 2, 0, offset, size, 0, 0, 8, 0))
    return head + b"".join(rows) + names.ljust(24, b"\0") + bytes(range(16))


def test_elf_files_of_64_bits() -> None:
    at = 64 + 3 * 64 + 24
    assert formats.read_words(elf64(at, 16)) == [0x0706050403020100, 0x0F0E0D0C0B0A0908]
    for offset, size in ((1 << 63, 16), (at, 1 << 63), ((1 << 64) - 8, 16), (at + 8, 16)):
        with pytest.raises(UsageError, match="cut off"):
            formats.read_words(elf64(offset, size))


def test_a_section_table_beyond_the_file() -> None:
    data = bytearray(elf64(64 + 3 * 64 + 24, 16))
    for place, layout, value in ((40, "<Q", 1 << 63), (40, "<Q", 1 << 20), (60, "<H", 0xFFFF), (58, "<H", 0)):
        damaged = bytearray(data)
        struct.pack_into(layout, damaged, place, value)
        with pytest.raises(UsageError, match="cannot be read"):
            formats.read_words(bytes(damaged))


def test_long_names_are_not_read_again_and_again() -> None:
    """Names as long as the file, one for each of many symbols, cost their number only."""
    words = formats.write_elf(WORDS, "prog", formats.Symbols({f"s{i}": 0 for i in range(2_000)}))
    elf = ELFFile(io.BytesIO(words))
    table, strings = elf.get_section_by_name(".symtab"), elf.get_section_by_name(".strtab")
    data = bytearray(words)
    long = b"\0" + b"a" * 400_000
    struct.pack_into("<II", data, 52 + 4 * 40 + 16, len(data), len(long))
    assert strings["sh_offset"] != len(data)
    for at in range(table["sh_offset"], table["sh_offset"] + table["sh_size"], 16):
        struct.pack_into("<I", data, at, 1)
    with pytest.raises(UsageError) as caught:
        formats.read_words(bytes(data) + long, symbol="nothing")
    assert len(str(caught.value)) < 300


def test_a_symbol_outside_its_section_is_refused() -> None:
    data = bytearray(formats.write_elf(WORDS, "prog"))
    table = ELFFile(io.BytesIO(bytes(data))).get_section_by_name(".symtab")["sh_offset"]
    for value, size in ((8, 24), (0xFFFFFFF8, 8), (0, 0xFFFFFFF8), (32, 0)):
        struct.pack_into("<II", data, table + 2 * 16 + 4, value, size)
        with pytest.raises(UsageError, match="outside its section"):
            formats.read_words(bytes(data), symbol="prog")
