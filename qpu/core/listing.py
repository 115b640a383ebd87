"""Program listings: disassembly with labels, in one form for all instruction sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from qpu.core.code import Code

__all__ = ["listing"]


def listing(code: Code, targets: Mapping[int, int], line: Callable[[int, str | None], str], label: str) -> str:
    """One instruction a line, labels on lines of their own; targets without a label get one.

    targets: the instruction that each branch reaches, by index. line: the text of instruction `index`, whose branch
    goes to the label given. label: how a definition is written, such as ``{}:``.
    """
    count = len(code)
    names: dict[int, list[str]] = {}
    for name, index in code.labels.items():
        names.setdefault(index, []).append(name)
    reached = {index: to for index, to in targets.items() if 0 <= to <= count}
    for to in sorted(set(reached.values()) - set(names)):
        name = f"L{to}"
        while name in code.labels:
            name += "_"
        names[to] = [name]
    lines: list[str] = []
    for index in range(count + 1):
        lines += [label.format(name) for name in names.get(index, ())]
        if index < count:
            lines.append("    " + line(index, names[reached[index]][0] if index in reached else None))
    return "\n".join(lines) + "\n" if lines else ""
