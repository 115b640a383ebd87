"""The generated tables of the language reference: types, functions, operations of each instruction set, rules."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

from qpu.lang.inline_asm import rows
from qpu.lang.schedule import Schedule
from qpu.lang.surface import FUNCTIONS, fast
from qpu.lang.types import DTYPES

ROOT = Path(__file__).parent.parent
_RULE = re.compile(r"(lang|launch)-[a-z-]+")
VALUES = {"f": "f32", "i": "i32", "u": "u32"}
RULES = {
    "lang-syntax": "a statement or expression that the language does not have",
    "lang-name": "a name that does not exist, or may be unbound here",
    "lang-type": "types that do not go together, or with what is asked of them",
    "lang-carried": "a name that changes its type in a loop",
    "lang-bool": "a condition used as a number, or one of the GPU where Python needs an answer",
    "lang-varying": "something that must be known when compiling, or be the same in all lanes",
    "lang-call": "arguments that a function does not have",
    "lang-effect": "a Python object from outside that would be changed",
    "lang-write-in": "writing an `In`, reading an `Out`",
    "lang-barrier": "a barrier that some lanes or workers would not reach",
    "lang-team": "an operation of a Team in a Grid, or the other way round; more workers than run at once",
    "lang-shared": "more memory of the team than there is",
    "lang-assert": "`assert` or `static_assert` that fails when compiling",
    "lang-python": "an error that Python itself raised when compiling",
    "lang-source": "a function without source text",
    "lang-asm": "inline assembly that cannot be",
    "lang-reg": "more values than registers",
    "lang-size": "a loop that is repeated when compiling and makes too many operations",
    "lang-internal": "a fault of the compiler itself; please report it",
    "launch-type": "an argument of another type, shape or number",
    "launch-device": "arrays of different devices, closed ones, or none",
    "launch-overlap": "arrays that overlap where one is written",
    "launch-align": "an array that begins in the middle of an element or row",
    "launch-bounds": "an index that certainly lies outside of an array",
}


def lang_page() -> str:
    """The page."""
    parts = [
        "# Tables of the kernel language\n",
        "What [the kernel language](../lang.md) has, from the rows of the package.\n",
        _types(), _functions(), _knobs(), _intrinsics(), _rules(),
    ]  # fmt: skip
    return "\n".join(parts)


def _table(head: str, lines: list[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *lines, ""])


def _types() -> str:
    lines = []
    for t in DTYPES.values():
        inside = "a pair of f32" if t.name == "c64" else VALUES[t.value]
        if t.lanes > 1:
            inside = f"a word; `w[j]` is an i32 of {t.lanes} parts"
        limits = f"{t.low} .. {t.high}" if t.integer else ""
        lines.append(f"| `{t.name}` | `np.{t.numpy}` | {t.size} | {inside} | {limits} |")
    head = "| type | buffer of | bytes | in a kernel | range |"
    return "## Types\n\n" + _table(head, lines)


def _functions() -> str:
    lines = [
        f"| `{name}` | {f.arity} | {f.__doc__} |" for name, f in sorted(FUNCTIONS.items(), key=lambda item: item[0])
    ]
    lines += [f"| `fast.{n}` | {f.arity} | {f.__doc__} |" for n, f in sorted(vars(fast).items()) if hasattr(f, "arity")]
    text = (
        "Errors: [Accuracy of the functions](lang-accuracy.md). Python's `abs`, `min`, `max`, `pow`, `round`, `int`, "
    )
    text += "`float`, `bool` and the functions of `math` that have the same name mean the same in a kernel.\n\n"
    return "## Functions\n\n" + text + _table("| name | operands | result |", lines)


def _knobs() -> str:
    defaults = Schedule()
    doc = " ".join((Schedule.__doc__ or "").split("\n\n")[1].split())
    lines = [f"| `{name}` | `{value!r}` |" for name, value in defaults.row.items()]
    return "## Knobs of `@kernel`\n\n" + doc + "\n\n" + _table("| knob | default |", lines)


def _intrinsics() -> str:
    found: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for isa in ("vc4", "v3d42", "v3d71"):
        for name, op in rows(isa).items():
            found[name, op.operands, op.doc].append(isa)
    lines = []
    for (name, operands, doc), isas in sorted(found.items()):
        own = dict.fromkeys(f"`k.{'vc4' if isa == 'vc4' else 'v3d'}.{name}`" for isa in isas)
        cells = (", ".join(own), ", ".join(isas), operands.replace("d:", "-> ", 1), doc.replace("|", chr(92) + "|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "## Operations of one instruction set\n\n" + _table("| name | on | operands | meaning |", lines)


def _rules() -> str:
    used = {
        node.value
        for path in (ROOT / "qpu" / "lang").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _RULE.fullmatch(node.value)
    } - {"lang-poison", "lang-loop", "lang-accuracy"}
    assert used == set(RULES), f"rules without a text, or texts without a rule: {used ^ set(RULES)}"
    lines = [f"| `{rule}` | {text} |" for rule, text in RULES.items()]
    return "## Rules\n\nThe first word of an error.\n\n" + _table("| rule | what is wrong |", lines)
