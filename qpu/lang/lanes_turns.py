"""Team kernels in plain Python: the function with its loops counted, so that lanes know in which turn they meet."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, Final

from qpu.lang.source import Source

__all__ = ["counted", "turns_of"]

_NAME: Final = "qpu_turn_"


class _Counter(ast.NodeTransformer):
    """Adds a name to each loop that counts its turns."""

    def _loop(self, node: ast.For | ast.While) -> list[ast.stmt]:
        self.generic_visit(node)
        name = f"{_NAME}{node.lineno}_{node.col_offset}"

        def at(text: str, where: ast.stmt) -> ast.stmt:
            made = ast.parse(text).body[0]
            for n in ast.walk(made):
                ast.copy_location(n, where)
            return made

        node.body.insert(0, at(f"{name} += 1", node.body[0]))
        return [at(f"{name} = 0", node), node, at(f"{name} = None", node)]

    visit_For = visit_While = _loop

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node  # a function inside: lanes call it in the same turn


def counted(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does the same, line for line, and whose frames tell the turns of their loops."""
    source = Source.of(fn)
    if not isinstance(source.tree, ast.FunctionDef) or not isinstance(fn, types.FunctionType):
        return fn
    tree = copy.deepcopy(source.tree)
    ast.increment_lineno(tree, source.first - 1)
    tree.decorator_list, tree.returns = [], None
    for arg in ast.walk(tree.args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    counter = _Counter()
    tree.body = [made for statement in tree.body for made in _list(counter.visit(statement))]
    free = fn.__code__.co_freevars
    outer = ast.parse(f"def outer({', '.join(free)}):\n pass").body[0]
    assert isinstance(outer, ast.FunctionDef)
    outer.body = [tree]
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = _inner(_inner(compile(module, source.file, "exec", dont_inherit=True)))
    cells = dict(zip(free, fn.__closure__ or (), strict=True))
    made = types.FunctionType(
        code, fn.__globals__, fn.__name__, fn.__defaults__, tuple(cells[n] for n in code.co_freevars)
    )
    made.__kwdefaults__ = fn.__kwdefaults__
    return made


def _list(made: Any) -> list[ast.stmt]:
    return made if isinstance(made, list) else [made]


def _inner(code: CodeType) -> CodeType:
    """The code of the last function that another code makes."""
    return [c for c in code.co_consts if isinstance(c, CodeType)][-1]


def turns_of(frame: FrameType) -> Iterator[tuple[int, int]]:
    """Line and turn of each loop that a frame is in, the outermost first."""
    found: list[tuple[int, int, int]] = []
    for name, turn in frame.f_locals.items():
        if name.startswith(_NAME) and turn is not None:
            line, column = name.removeprefix(_NAME).split("_")
            found.append((int(line), int(column), turn))
    for at, _, count in sorted(found):
        yield at, count
