"""The branch parser of V3D text: condition, targets and link flag."""

from __future__ import annotations

import re

from qpu.v3d.codes import BRANCH_CONDS
from qpu.v3d.expr import wrong
from qpu.v3d.instr import Branch
from qpu.v3d.parse_operands import OperandParser

__all__ = ["is_branch", "parse_branch"]

_BRANCH = re.compile(r"\s*b(u?)(?:\.(\w+?))?([pq]?)(?=\s|$)\s*")
_BRANCH_LIKE = re.compile(r"\s*bu?[pq]?(?:\.\w*)?(?=\s|$)")
_LABEL = re.compile(r"[A-Za-z_$][\w.$]*$")


def is_branch(code: str, column: int) -> bool:
    """True when an instruction that begins at `column` is a branch."""
    return _BRANCH_LIKE.match(code, column) is not None


def parse_branch(operands: OperandParser, code: str, column: int) -> tuple[Branch, str | None, int]:
    """The branch in `code` from `column` on, its target label (None: the target is in the branch), and their column."""
    head, *extra = code[column:].split(";")
    m = _BRANCH.match(code, column)
    start = column + len(head) - len(head.lstrip())
    cond = m[2] or "" if m is not None else ""
    if m is None or cond not in BRANCH_CONDS:
        found = head.split()[0]
        allowed = "b or bu, then ." + ", .".join(c for c in BRANCH_CONDS if c) + ", then p or q"
        raise wrong(start, "branch-form", f"unknown branch {found!r}", allowed)
    link = False
    at = column + len(head) + 1
    for piece in extra:
        if piece.strip() != "link" or link:
            raise wrong(at + len(piece) - len(piece.lstrip()), "after-branch", f"{piece.strip()!r} after a branch")
        link = True
        at += len(piece) + 1
    texts: list[tuple[str, int]] = []
    at = m.end()
    for text in code[m.end() : column + len(head)].split(","):
        texts.append((text.strip(), at + len(text) - len(text.lstrip())))
        at += len(text) + 1
    ub = bool(m[1])
    if len(texts) != 1 + ub or not all(t for t, _ in texts):
        why = "bu takes a target and a uniform target" if ub else "b takes one target"
        allowed = "bu target, a:unif | r:unif | lri | rfN" if ub else "b target"
        raise wrong(start, "branch-operands", why, allowed)
    branch = Branch(operands.isa, cond, m[3], link=link, ub=ub, bdu="rel" if ub else "")
    if ub:
        branch = _uniform_target(operands, branch, *texts[1])
    branch, label = _target(operands, branch, *texts[0])
    return branch, label, texts[0][1]


def _uniform_target(operands: OperandParser, branch: Branch, text: str, column: int) -> Branch:
    text = operands.registers.get(text, text)
    kinds = {"a:unif": "abs", "r:unif": "rel", "lri": "lri"}
    if text in kinds:
        return branch._replace(bdu=kinds[text])
    m = re.fullmatch(r"rf([0-9]+)", text)
    if m is None:
        raise wrong(column, "uniform-target", f"{text!r} is not a uniform target")
    return branch._replace(bdu="rf", raddr_a=operands.rf(m[1], column))


def _target(operands: OperandParser, branch: Branch, text: str, column: int) -> tuple[Branch, str | None]:
    text = operands.registers.get(text, text)
    if text == "lri":
        return branch._replace(bdi="lri"), None
    m = re.fullmatch(r"rf([0-9]+)", text)
    if m is not None:
        n = operands.rf(m[1], column)
        if branch.bdu == "rf" and branch.raddr_a != n:
            raise wrong(column, "one-branch-register", f"rf{n} and rf{branch.raddr_a}: a branch reads one register")
        return branch._replace(bdi="rf", raddr_a=n), None
    m = re.fullmatch(r"zero_addr\s*\+\s*(.+)", text)
    if m is not None:
        address = operands.value(m[1], column + m.start(1))
        if not isinstance(address, int) or not 0 <= address < 1 << 32 or address & 7:
            raise wrong(column, "branch-address", f"{m[1]} is not a multiple of 8 in 32 bits")
        return branch._replace(bdi="abs", offset=address), None
    if _LABEL.match(text) and text not in operands.constants:
        return branch, text
    offset = operands.value(text, column)
    if not isinstance(offset, int) or not -(1 << 31) <= offset < 1 << 32 or offset & 7:
        raise wrong(column, "branch-address", f"{text} is not a multiple of 8 in 32 bits", help="use a label")
    return branch._replace(offset=offset & 0xFFFFFFFF), None
