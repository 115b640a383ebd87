"""Tests of expressions against Python's own arithmetic."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpu.core.scalar_lanes import ScalarLanes
from qpu.errors import AsmError
from qpu.vc4.pack import PACK_A
from qpu.vc4.vc4asm import standard_scope
from qpu.vc4.vc4asm.constants import pack_constant
from qpu.vc4.vc4asm.engine import Engine
from qpu.vc4.vc4asm.expr import evaluate
from qpu.vc4.vc4asm.registers import REGISTERS
from qpu.vc4.vc4asm.values import Value, float_bits


def value(text: str) -> Value:
    return evaluate(text, Engine({}, standard_scope()))


def signed(n: int) -> int:
    n &= (1 << 64) - 1
    return n - (1 << 64) if n >> 63 else n


def trunc_div(a: int, b: int) -> int:
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


# Tightest first; every level associates to the left.
LEVELS: list[dict[str, Callable[[int, int], int]]] = [
    {"*": operator.mul, "/": trunc_div, "%": lambda a, b: a - b * trunc_div(a, b)},
    {"+": operator.add, "-": operator.sub},
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "<=>": lambda a, b: (a > b) - (a < b)},
    {"==": operator.eq, "!=": operator.ne},
    {"&": operator.and_},
    {"^": operator.xor, "!^": lambda a, b: ~(a ^ b)},
    {"|": operator.or_},
    {"&&": lambda a, b: bool(a) and bool(b)},
    {"^^": lambda a, b: bool(a) != bool(b), "!^^": lambda a, b: bool(a) == bool(b)},
    {"||": lambda a, b: bool(a) or bool(b)},
]
RANK = {name: (rank, f) for rank, level in enumerate(LEVELS) for name, f in level.items()}
numbers = st.one_of(st.integers(0, 20), st.integers(0, (1 << 63) - 1))


@settings(max_examples=150, deadline=None)
@given(numbers, st.lists(st.tuples(st.sampled_from(sorted(RANK)), numbers), max_size=6), st.booleans())
def test_chains_follow_precedence(first: int, rest: list[tuple[str, int]], spaces: bool) -> None:
    gap = " " if spaces else ""
    text = str(first) + "".join(f"{gap}{op}{gap}{n}" for op, n in rest)
    if not spaces and any(a in text for a in ("!^^", "&&", "^^")) and "!" in text.replace("!^", "").replace("!=", ""):
        return
    values = [first, *(n for _, n in rest)]
    ops = [op for op, _ in rest]
    try:
        for rank in range(len(LEVELS)):
            i = 0
            while i < len(ops):
                if RANK[ops[i]][0] == rank:
                    values[i : i + 2] = [signed(int(RANK[ops[i]][1](values[i], values[i + 1])))]
                    del ops[i]
                else:
                    i += 1
    except ZeroDivisionError:
        with pytest.raises(Exception, match="zero"):
            value(text)
        return
    assert value(text) == values[0]


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(-70, 70))
def test_shifts(x: int, n: int) -> None:
    def left(a: int, k: int) -> int:
        return signed(a << k) if k >= 0 else a >> -k

    u = x & ((1 << 64) - 1)

    def logical(k: int) -> int:
        return signed(u << k) if k >= 0 else signed(u >> -k)

    def rotate(a: int, k: int, bits: int) -> int:
        k %= bits
        mask = (1 << bits) - 1
        return ((a << k) | ((a & mask) >> (bits - k))) & mask

    assert value(f"({x}) << ({n})") == left(x, n)
    assert value(f"({x}) >> ({n})") == left(x, -n)
    assert value(f"({x}) <<< ({n})") == logical(n)
    assert value(f"({x}) >>> ({n})") == logical(-n)
    assert value(f"({x}) ><<< ({n})") == signed(rotate(u, n, 64))
    assert value(f"({x}) >>>< ({n})") == signed(rotate(u, -n, 64))
    w = u & 0xFFFFFFFF
    assert value(f"{w} ><< ({n})") == rotate(w, n, 32)
    assert value(f"{w} >>< ({n})") == rotate(w, -n, 32)


finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


def decimal(x: float) -> str:
    """A float in plain digits: exponents with a plus sign are not numbers in this language."""
    return f"({x!r})".replace("e+", "e")


@given(finite, finite)
def test_float_arithmetic(a: float, b: float) -> None:
    assert value(f"{decimal(a)} + {decimal(b)}") == a + b
    assert value(f"{decimal(a)} - {decimal(b)}") == a - b
    assert value(f"{decimal(a)} * {decimal(b)}") == a * b
    assert value(f"{decimal(a)} < {decimal(b)}") == int(a < b)
    if b:
        expected = a / b if abs(b) > 1e-300 or abs(a) < 1e-300 else None
        if expected is not None:
            assert value(f"{decimal(a)} / {decimal(b)}") == expected


@given(st.floats(width=32, allow_nan=False))
def test_floats_become_single_precision(x: float) -> None:
    assert float_bits(x) == struct.unpack("<I", struct.pack("<f", x))[0]


@given(st.floats(min_value=0.001, max_value=100))
def test_named_functions(x: float) -> None:
    for name in ("sqrt", "sin", "cos", "tan", "atan", "sinh", "erf", "erfc", "log2", "log10", "exp2", "exp", "log"):
        assert value(f"{name}({x!r})") == getattr(math, name)(x), name
    assert value(f"floor {x!r}") == math.floor(x)
    assert value(f"ceil {x!r}") == math.ceil(x)
    assert value(f"abs -{x!r}") == x


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2**3**2", 64),
        ("-2**2", 4),
        ("2**-1", 0.5),
        ("2**0.5", math.sqrt(2)),
        ("~5", -6),
        ("!5", 0),
        ("!0.0", 1),
        ("- - 3", 3),
        ("3 === 3.0", 0),
        ("3 == 3.0", 1),
        ("3 !== 3.0", 1),
        ("ra1 == ra1", 1),
        ("ra1 == rb1", 0),
        ("ra1 === ra1", 1),
        ("1.5 << 2", 6.0),
        ("6.0 >> 1", 3.0),
        ("1 << -1", 0),
        ("0xffffffffffffffff", -1),
        ("0o17", 15),
        ("0b1011", 11),
        ("0d10", 10),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("sin(1.0)*2", math.sin(1.0) * 2),
        ("sqrt 4.0 + 5", 7.0),
        ("isRegister(ra5) + isAccu(r3)*2 + isConstant(ra1)*4", 3),
        ("isRegfileA(ra1)*2 + isRegfileB(ra1)", 2),
        ("isSmallImmd(17)*4 + isSmallImmd(-16)*2 + isSmallImmd(0.5)", 3),
        ("isLdPES([0,1,-1,0,0,0,0,0,0,0,0,0,0,0,0,0])", 1),
        ("isLdPEU([0,1,3,0,0,0,0,0,0,0,0,0,0,0,0,0])", 1),
        ("isReadable(r5)*2 + isWritable(r5)", 2),
    ],
)
def test_values(text: str, expected: float) -> None:
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_registers() -> None:
    assert value("ra3+1") is REGISTERS["ra4"]
    assert value("1 + rb3") is REGISTERS["rb4"]
    assert value("r1+2") is REGISTERS["r3"]
    assert value("sacq0 + 5") is REGISTERS["sacq5"]
    t = value("t0s + 2")
    assert getattr(t, "waddr", None) == REGISTERS["t0r"].waddr
    rotated = value("r1 >> 3")
    assert getattr(rotated, "rotation", None) == 3
    assert getattr(value("r1 << 3 >> 5"), "rotation", None) == 2


def test_numbers_that_do_not_exist() -> None:
    from qpu.vc4.vc4asm.fault import Fault

    for text in ("12ab", "0x", "0b12", "1.5e", "0xg", "1_000", "1e3x", "18446744073709551616"):
        with pytest.raises(Fault):
            value(text)


def test_recursion_ends() -> None:
    from qpu.vc4.vc4asm import assemble_text

    deep = ".func s(n)\n.if n < 1\n0\n.else\n.if 1\nn + s((((n-1))))\n.endif\n.endif\n.endf\nldi r0, s({})"
    assert assemble_text(deep.format(100)).words[0] & 0xFFFFFFFF == 5050
    with pytest.raises(AsmError) as caught:
        assemble_text(deep.format(5000))
    assert caught.value.diagnostics[0].rule == "recursion"
    for text in ("(" * 1900 + "1" + ")" * 1900, "-" * 3900 + "1", "abs " * 900 + "1"):
        with pytest.raises(AsmError) as caught:
            assemble_text("ldi r0, " + text)
        assert caught.value.diagnostics[0].rule == "recursion"


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0xFF, 0x100, 0x1234, 0x7FFFFFFF, 0x80000000, 0xFFFFFF80, 0xFFFFFFFF])
def test_packs_of_constants_are_those_of_the_rows(value: int) -> None:
    """Packs of register file A that write all 32 bits; none where the rest of the destination is kept."""
    for code, row in enumerate(PACK_A):
        found = pack_constant(value, 0, code)
        assert (found is None) == (code not in (0, 3, 11))
        if found is not None:
            assert found == row.sem(ScalarLanes(), 0, value, False), row
