"""Checks of KIR between passes: every operand is made before its use, types match the rows, regions are well formed."""

from __future__ import annotations

from qpu.lang.kir import ROWS, Loop, Region, Skip, Value, walk

__all__ = ["KirError", "verify_kir"]


class KirError(AssertionError):
    """KIR that the compiler itself got wrong."""


def verify_kir(top: Region) -> None:
    """Raises: KirError naming the first operation that breaks an invariant."""
    _region(top, set())


def _fail(value: Value, what: str) -> KirError:
    return KirError(f"{value.op} of {value.loc}: {what}")


def _region(region: Region, seen: set[int]) -> None:
    known = set(seen)
    known.update(id(p) for p in region.parameters)
    for value in region.ops:
        for a in value.args:
            if id(a) not in known:
                raise _fail(value, f"operand {a.op} ({a.loc}) is not made before it")
        _types(value)
        attr = value.attr
        if isinstance(attr, Loop | Skip):
            inside = known | {id(p) for p in attr.region.parameters}
            _region(attr.region, known)
            made = inside | {id(v) for v in attr.region.ops}
            made |= {id(r) for v in attr.region.ops if isinstance(v.attr, Loop | Skip) for r in v.attr.results}
            for y in attr.yields:
                if id(y) not in made:
                    raise _fail(value, f"yields {y.op} ({y.loc}), which is not made in its region")
            if isinstance(attr, Loop) and id(attr.cond) not in made:
                raise _fail(value, f"its condition {attr.cond.op} is not made in its region")
            _carried(value, attr)
            known.update(id(r) for r in attr.results)
        known.add(id(value))


def _carried(value: Value, attr: Loop | Skip) -> None:
    inits, results = value.args[1:], attr.results
    rows: list[tuple[str, ...]] = [tuple(v.type for v in inits), tuple(v.type for v in attr.yields)]
    rows.append(tuple(r.type for r in results))
    if isinstance(attr, Loop):
        rows.append(tuple(p.type for p in attr.region.parameters))
        if attr.cond.type != "b":
            raise _fail(value, "its condition is not a mask")
    if len(set(rows)) != 1:
        raise _fail(value, f"carried values disagree: {rows}")
    if value.args[0].type != "b":
        raise _fail(value, "its first operand is not a mask")


def _types(value: Value) -> None:
    row = ROWS[value.op]
    letters: dict[str, str] = {}
    wanted = row.args.rstrip("*")
    if "*" not in row.args and len(value.args) != len(wanted):
        raise _fail(value, f"{len(value.args)} operands, {len(wanted)} are wanted")
    for letter, a in zip(wanted, value.args, strict=False):
        if letter in "fiub":
            if a.type != letter:
                raise _fail(value, f"an operand is {a.type}, {letter} is wanted")
            continue
        if letter == "n" and a.type not in "iu":
            raise _fail(value, f"an operand is {a.type}, an integer is wanted")
        if letters.setdefault(letter, a.type) != a.type and value.op != "bitcast":
            raise _fail(value, f"operands of types {letters[letter]} and {a.type}")
    if value.op == "select" and value.type == "b":
        raise _fail(value, "masks are chosen by band and bor")
    if row.result in "fiub" and row.result and value.type != row.result:
        raise _fail(value, f"its type is {value.type}, the row says {row.result}")
    for_memory = value.op in ("load", "store", "atomic")
    if for_memory and not all(a.type == "b" for a in value.args[_fixed(value) :]):
        raise _fail(value, "its mask is not a mask")


def _fixed(value: Value) -> int:
    if value.op == "load":
        return 2
    if value.op == "store":
        return 3
    return 4 if value.attr.operation == "cas" else 3


def count(top: Region) -> int:
    """How many operations there are."""
    return sum(1 for _ in walk(top))
