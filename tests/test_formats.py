"""Program files: what is written reads back, here and with the system's own tools."""

from __future__ import annotations

import io
import shutil
import subprocess
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
