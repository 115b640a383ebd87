"""Generator of the page of hazard rules: each rule of the checkers, with its remedy."""

from __future__ import annotations

from collections.abc import Iterable

from qpu.core.hazards import REST, Rule, Rules, Window
from qpu.core.isa import Isa
from qpu.v3d.rules import RULES as V3D
from qpu.vc4.rules import RULES as VC4


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("{}", "a register or unit")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _chips(isas: Iterable[Isa] | None) -> str:
    found = sorted(isas or ())
    return f" ({', '.join(isa.label[4:] for isa in found)})" if len(found) == 1 and Isa.VC4 not in found else ""


def _window(rule: Rule, windows: Iterable[Window]) -> str:
    """The windows of a rule: which instruction must not follow which one, at which distances."""
    parts = []
    for w in windows:
        last = "the end" if w.distance == REST else str(w.distance)
        span = f"{w.first}" if w.first == w.distance else f"{w.first}..{last}"
        before = f"`{w.before.replace(' | ', '` or `')}`" + (" (the same one)" if w.same else "")
        after = f"`{w.after.replace(' | ', '` or `')}`"
        parts.append(f"{after} → {before} at distance {span}{_chips(w.isas)}")
    return "<br>".join(dict.fromkeys(parts))


def _section(rule: Rule, family: str) -> str:
    lines = [f"(rule-{family}{rule.id})=", f"### {rule.label}", ""]
    lines += [f"*{rule.severity}*{_chips(rule.isas)} · {_cell(_sentence(rule.summary))}", ""]
    if rule.windows:
        lines += [f"Window: {_window(rule, rule.windows)}.", ""]
    return "\n".join([*lines, f"{_sentence(rule.help)} Evidence: {rule.basis} ({_cell(rule.source)}).", ""])


def _sections(rules: Rules, family: str = "") -> list[str]:
    return [_section(rule, family) for rule in rules.values()]


def rules_page() -> str:
    """The page, from the rows."""
    parts = [
        "# Hazard rules",
        "",
        (
            "Each finding carries one of these names. *Distance* counts instructions: 1 is the next one, 0 the same. "
            "A builder program with an `error` is refused; `qpu check` and `Program.check()` report a `warning`. "
            "The emulator uses the same names. {doc}`/hazard-errors` explains a message."
        ),
        "",
        "## V3D 4.2 and 7.1",
        "",
        (
            "Errors are the findings of Mesa's QPU validator, from one walk over all instructions in order. A finding "
            "only along a taken branch is a warning for every rule."
        ),
        "",
        *_sections(V3D),
        "## VideoCore IV",
        "",
        (
            "Rules are checked along every path: after a branch come its three delay slots, then the target, and after "
            "a conditional branch also the instruction after the slots. H30, a signal together with a small immediate, "
            "cannot be encoded: both use the same field."
        ),
        "",
        *_sections(VC4, "vc4-"),
    ]
    return "\n".join(parts)
