"""Tests of limits: text and files that would take unbounded work are refused after little work."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from qpu.errors import AsmError
from qpu.vc4.vc4asm import assemble_text, budget, engine


def refused(text: str, **options: object) -> AsmError:
    with pytest.raises(AsmError) as caught:
        assemble_text(text, **options)  # type: ignore[arg-type]  # keyword arguments of the caller
    return caught.value


def doubling(levels: int) -> str:
    text = "".join(f".set f{i}(a), f{i + 1}(a)+f{i + 1}(a)\n" for i in range(levels))
    return text + f".set f{levels}(a), a\nldi r0, f0(1)\n"


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts expressions of functions that are evaluated."""
    count = [0]
    original = engine.evaluate

    def counted(*args: object) -> object:
        count[0] += 1
        return original(*args)  # type: ignore[arg-type]  # handed on

    monkeypatch.setattr(engine, "evaluate", counted)
    return count


@pytest.mark.parametrize("levels", [17, 60])
def test_functions_that_double_are_refused_after_few_evaluations(levels: int, evaluations: list[int]) -> None:
    error = refused(doubling(levels))
    assert [d.rule for d in error.diagnostics] == ["expansion"]
    assert error.diagnostics[0].help
    assert evaluations[0] < 60_000


def test_functions_of_lines_count_as_well(evaluations: list[int]) -> None:
    body = "".join(f".func f{i}(a)\n f{i + 1}(a)+f{i + 1}(a)\n.endf\n" for i in range(40))
    assert refused(body + ".func f40(a)\n a\n.endf\nldi r0, f0(1)").diagnostics[0].rule == "expansion"
    assert evaluations[0] < 60_000


def test_what_is_linear_in_the_text_is_not_limited() -> None:
    assert assemble_text(doubling(8)).words == assemble_text("ldi r0, 256").words
    lines = 3_000  # each with 3 calls of the standard include, more than the limit without lines
    text = "ldi vw_setup, vdw_setup_0(1, 16, dma_h32(0, 0))\n" * lines
    assert len(assemble_text(text).words) == lines


def mirrored(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


@pytest.mark.parametrize(("n", "bits"), [(2_000, 11), pytest.param(10_000, 14, marks=pytest.mark.soak)])
def test_tables_of_thousands_of_calls(n: int, bits: int) -> None:
    found = assemble_text(f".rep i, {n}\n.int64 reverseBits(i, {bits})\n.endr").words
    assert list(found) == [mirrored(i, bits) for i in range(n)]


@pytest.fixture(params=[100, pytest.param(1, marks=pytest.mark.soak)])
def share(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A hundredth of the limit of steps; the whole limit takes seconds."""
    monkeypatch.setattr(budget, "_EXPANDED", budget._EXPANDED // request.param)
    monkeypatch.setattr(budget, "FUNCTION_CHARACTERS", budget.FUNCTION_CHARACTERS // request.param)
    return int(request.param)


def test_a_repetition_of_calls_that_double_is_refused(evaluations: list[int], share: int) -> None:
    text = doubling(16).replace("ldi r0, f0(1)", ".rep i, 1000000\nldi r0, f4(i)\n.endr")
    assert refused(text).diagnostics[0].rule == "expansion"
    assert evaluations[0] < 150_000 // share


REMEMBERED = {
    "a constant changes": (".set k, 1\n.set f(x) x+k\n.int64 f(1)\n.set k, 5\n.int64 f(1)", [2, 6]),
    "a constant of the caller": (".set k, 1\n.set f(x) x+k\n.int64 f(1)\n.rep k, 3\n.int64 f(1)\n.endr", [2, 1, 2, 3]),
    "a parameter of the caller": (".set k, 1\n.set f(x) x+k\n.set g(k) f(1)\n.int64 f(1), g(7), f(1)", [2, 8, 2]),
    "of the caller's caller": (
        ".set k, 1\n.set f(x) x+k\n.set g(x) f(x)\n.set h(k) g(1)\n.int64 g(1), h(7), h(8), g(1)", [2, 8, 9, 2]
    ),
    "another function": (".set f(x) x\n.set g(x) f(x)\n.int64 g(3)\n.set f(x) x*2\n.int64 g(3)", [3, 6]),
    "the function itself": (".set f(x) x\n.int64 f(3)\n.set f(x) x*2\n.int64 f(3)", [3, 6]),
    "a local function": (
        ".set f(x) x\n.set g(x) f(x)\n.int64 g(3)\n.local\n.lset f(x) 9\n.int64 g(3)\n.endloc\n.int64 g(3)", [3, 9, 3]
    ),
    "a local constant": (".set k, 1\n.set f(x) x+k\n.int64 f(1)\n.local\n.lset k, 4\n.int64 f(1)\n.endloc", [2, 5]),
    "types": (".set f(x) x/2\n.int64 f(3)\n.double f(3.0)\n.int64 f(3)", [1, 0x3FF8000000000000, 1]),
    "it counts": (".set n, 0\n.func f(x)\n.set n, n+x\nn\n.endf\n.int64 f(2), f(2), f(2)", [2, 4, 6]),
    "ifset": (".func f(x)\n.ifset m\n1\n.else\n0\n.endif\n.endf\n.int64 f(0)\n.macro m\n.endm\n.int64 f(0)", [0, 1]),
    "a constant is removed": (
        ".set k, 1\n.func f(x)\n.ifset k\n1\n.else\n0\n.endif\n.endf\n.int64 f(0)\n.unset k\n.int64 f(0)", [1, 0]
    ),
    "labels": (".set f(x) :l-:1b+x\n1: .int64 f(0)\n1: .int64 f(0)\nl:", [16, 8]),
    "the standard include": (
        ".set g(x) countBits(x)\n.set countBits(x) 77\n.int64 g(3)\n.include <vc4.qinc>\n.int64 g(3)", [77, 2]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REMEMBERED)
def test_results_are_remembered_only_while_they_hold(name: str) -> None:
    text, words = REMEMBERED[name]
    assert list(assemble_text(text).words) == words


def test_warnings_of_a_function_are_given_for_every_call() -> None:
    found = assemble_text(".int64 min(1, 2)\n.int64 min(1, 2)").warnings
    assert [(d.rule, d.loc.line if d.loc else 0) for d in found] == [("standard-min", 1), ("standard-min", 2)]


@pytest.mark.usefixtures("share")
def test_repeated_expressions_are_limited_by_their_length() -> None:
    text = ".rep i, 1000000\n.int " + "+".join("1" * 1900) + "\n.endr\n"
    error = refused(text)
    assert error.diagnostics[0].rule == "expansion"


@pytest.mark.parametrize("levels", [budget.IF_LIMIT + 1, 4_000, 60_000])
def test_conditions_nested_too_deep(levels: int) -> None:
    error = refused(".if 1\n" * levels + "nop\n" + ".endif\n" * levels)
    assert [(d.rule, d.loc.line if d.loc else 0) for d in error.diagnostics] == [("recursion", budget.IF_LIMIT + 1)]


def test_conditions_up_to_the_limit_and_in_skipped_text() -> None:
    limit = budget.IF_LIMIT
    assert len(assemble_text(".if 1\n" * limit + "nop\n" + ".endif\n" * limit).words) == 1
    deep = ".if 1\n" * 20_000 + ".endif\n" * 20_000
    assert len(assemble_text(".if 0\n" + deep + ".else\nnop\n.endif").words) == 1
    assert len(assemble_text(".if 0\n" + ".elseif 0\n" * 20_000 + ".else\nnop\n.endif").words) == 1


def test_blocks_are_found_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from qpu.vc4.vc4asm import text

    looked = [0]
    original = text._directive

    def counted(line: str) -> str:
        looked[0] += 1
        return original(line)

    monkeypatch.setattr(text, "_directive", counted)
    n = 50
    assemble_text(".if 1\n" * n + ".rep i, 3\nnop\n.endr\n" + ".endif\n" * n)
    assert looked[0] <= 2 * n + 4


def test_recursion_limit_is_left_as_it_was() -> None:
    before = sys.getrecursionlimit()
    refused(".func f(x)\n .if x\n f(x)\n .else\n 0\n .endif\n.endf\nldi r0, f(1)")
    assert sys.getrecursionlimit() == before


# -- included files


def include(name: str) -> str:
    return f'.include "{name}"\n'


def test_only_regular_files_are_included(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in (str(tmp_path / "fifo"), "/dev/zero", "/dev/null"):
        found = refused(include(name)).diagnostics[0]
        assert (found.rule, "not a regular file" in found.message) == ("include", True), name
    assert "is not found" in refused(include(str(tmp_path / "directory"))).diagnostics[0].message
    assert refused(include("a\0b")).diagnostics[0].rule == "include"


def test_included_files_have_a_size_limit(tmp_path: Path) -> None:
    file = tmp_path / "big.qinc"
    file.write_bytes(b"#" * (budget.INCLUDE_SIZE + 1))
    found = refused(include(str(file))).diagnostics[0]
    assert (found.rule, found.allowed) == ("include", f"{budget.INCLUDE_SIZE} bytes")
    file.write_bytes(b"nop\n" + b"#" * (budget.INCLUDE_SIZE - 4))
    assert len(assemble_text(include(str(file))).words) == 1


def test_a_file_that_includes_itself_twice_ends(tmp_path: Path) -> None:
    file = tmp_path / "self.qinc"
    file.write_text(include(str(file)) * 2)
    assert {d.rule for d in refused(include(str(file))).diagnostics} <= {"recursion", "expansion"}


def test_include_root_confines(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "lib").mkdir(parents=True)
    (root / "lib" / "in.qinc").write_text("nop\n")
    (tmp_path / "out.qinc").write_text("secret of the file\n")
    (root / "link.qinc").symlink_to(tmp_path / "out.qinc")
    main = str(root / "main.qasm")
    for name in ("lib/in.qinc", str(root / "lib" / "in.qinc"), "lib/../lib/in.qinc"):
        assert len(assemble_text(include(name), filename=main, include_root=root).words) == 1
    for name in ("../out.qinc", str(tmp_path / "out.qinc"), "link.qinc", "/etc/hostname", "lib/../../out.qinc"):
        error = refused(include(name), filename=main, include_root=root)
        assert "outside the include root" in error.diagnostics[0].message, name
        assert "secret" not in str(error)
    assert (
        "outside" in refused(".include <out.qinc>", include_path=[tmp_path], include_root=root).diagnostics[0].message
    )


def test_the_standard_include_is_there_with_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for text in (".include <vc4.qinc>\n", '.include "vc4.qinc"\n', ""):
        result = assemble_text(
            text + "ldi r0, h32(0)", filename="/elsewhere/main", include_path=["/usr"], include_root=tmp_path / "root"
        )
        assert result.words == assemble_text("ldi r0, 0xa00").words
