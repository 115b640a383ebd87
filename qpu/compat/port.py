"""The command `qpu port`: rewrites a program of PyVideoCore, py-videocore6 or py-videocore7 in our own dialect.

Builder functions become functions of our builders (`qpu.compat.port_words`), driver calls become calls of a device.
Layout and comments stay. What could not be translated is listed with its line.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from qpu.compat.edits import Edits
from qpu.compat.port_words import V3dWords, Vc4Words, Words
from qpu.compat.v3d_words import words
from qpu.compat.vc4_words import WORDS
from qpu.core.isa import Isa
from qpu.errors import UsageError

__all__ = ["Ported", "port"]

_LIBRARIES = {"videocore": Isa.VC4, "videocore6": Isa.V3D42, "videocore7": Isa.V3D71}
_BUILDERS = {Isa.VC4: "qpu.vc4.Asm", Isa.V3D42: "qpu.v3d.Asm42", Isa.V3D71: "qpu.v3d.Asm71"}
_KNOWN = ("qpu", "assemble", "Driver", "Array", "Assembly", "Register", "*")  # imports that are translated


@dataclass(frozen=True)
class Ported:
    """The new program, and what could not be translated: line of the old program, text."""

    text: str
    notes: tuple[tuple[int, str], ...]


def _library(module: str | None) -> str | None:
    """The old library that a module belongs to."""
    parts = (module or "").removeprefix("qpu.compat.").split(".")
    return parts[0] if parts[0] in _LIBRARIES else None


def _names(isa: Isa) -> frozenset[str]:
    return frozenset(WORDS if isa is Isa.VC4 else words(isa))


def _bound(function: ast.FunctionDef) -> frozenset[str]:
    """Names that a function binds itself, its parameters included."""
    arguments = function.args
    found = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


def port(source: str, filename: str = "<program>") -> Ported:
    """Rewrite a program.

    Raises: UsageError for text that is no Python, or that imports none of the libraries.
    """
    try:
        tree = ast.parse(source, filename)
    except SyntaxError as error:
        help = "port a program that Python 3 can read"
        raise UsageError(f"{filename}:{error.lineno}: {error.msg}", help=help) from None
    return _Port(source, tree, filename).result()


class _Port:
    def __init__(self, source: str, tree: ast.Module, filename: str) -> None:
        self.edits = Edits(source)
        self.tree = tree
        self.isa = self._isa(filename)
        self.names = _names(self.isa)
        self.decorators = {"qpu"}
        self.drivers = {"drv"}
        self.needs_functools = False

    def _isa(self, filename: str) -> Isa:
        for node in ast.walk(self.tree):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            for module in modules:
                if (library := _library(module)) is not None:
                    return _LIBRARIES[library]
        raise UsageError(
            f"{filename} imports none of {', '.join(_LIBRARIES)}", help="port a program of one of these libraries"
        )

    def result(self) -> Ported:
        """Translate everything."""
        self._imports()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef) and self._is_builder(node):
                self._builder(node)
        _Calls(self).module(self.tree)
        if self.needs_functools:
            self.edits.cut(self._import_at, self._import_at, "import functools\n")
        notes = sorted(set(self.edits.notes))
        return Ported(self.edits.result(), tuple(notes))

    def _imports(self) -> None:
        first = True
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and _library(node.module) is not None:
                self._alias(node)
            elif not (isinstance(node, ast.Import) and any(_library(alias.name) for alias in node.names)):
                continue
            start, end = self.edits.span(node)
            if first:
                self._import_at = start
                self.edits.cut(start, end, "import qpu")
                first = False
            else:
                newline = self.edits.source.find("\n", end)
                self.edits.cut(start, newline + 1 if newline >= 0 else end)

    def _alias(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name == "qpu" and alias.asname:
                self.decorators.add(alias.asname)
            elif alias.name not in _KNOWN:
                self.edits.note(node, f"{alias.name} of the old library")

    def _is_builder(self, node: ast.FunctionDef) -> bool:
        return any(isinstance(d, ast.Name) and d.id in self.decorators for d in node.decorator_list)

    def _builder(self, node: ast.FunctionDef) -> None:
        edits = self.edits
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Name) and decorator.id in self.decorators:
                line = edits.offset(decorator.lineno, 0)
                edits.cut(line, edits.offset(decorator.lineno + 1, 0))
        arguments = [*node.args.posonlyargs, *node.args.args]
        if not arguments:
            edits.note(node, f"{node.name} has no parameter for the program")
            return
        first = arguments[0]
        edits.replace(first, f"q: {_BUILDERS[self.isa]}")
        for each in (*arguments[1:], *node.args.kwonlyargs):
            if each.annotation is not None:
                edits.cut(edits.span(each)[0] + len(each.arg), edits.span(each)[1])
        names = self.names
        made: Words = (
            Vc4Words(edits, names, first.arg, _bound(node))
            if self.isa is Isa.VC4
            else V3dWords(edits, names, first.arg, _bound(node), self.isa)
        )
        for default in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)):
            if isinstance(default, ast.Name) and default.id in names:
                edits.note(default, f"the register {default.id} as a default: pass it, or default to None")
        made.body(node)


class _Calls(ast.NodeVisitor):
    """Translates what is outside of builder functions: driver, arrays, launches."""

    def __init__(self, owner: _Port) -> None:
        self.owner = owner
        self.edits = owner.edits
        self.isa = owner.isa
        self.arrays: set[str] = set()  # names of arrays in GPU memory, in the scope at hand

    def module(self, tree: ast.Module) -> None:
        """Translate the whole program."""
        for node in ast.walk(tree):
            if isinstance(node, ast.withitem) and self._is_driver(node.context_expr):
                if isinstance(node.optional_vars, ast.Name):
                    self.owner.drivers.add(node.optional_vars.id)
            elif isinstance(node, ast.Assign) and self._is_driver(node.value):
                self.owner.drivers.update(t.id for t in node.targets if isinstance(t, ast.Name))
        self._scope(tree, set())

    def _scope(self, node: ast.Module | ast.FunctionDef, outer: set[str]) -> None:
        self.arrays = outer | self._made_here(node)
        inside = self.arrays
        for statement in node.body:
            self.visit(statement)
            self.arrays = inside

    def _made_here(self, scope: ast.AST) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(scope):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    found |= self._pairs(target, node.value)
            elif isinstance(node, ast.AnnAssign):
                found |= self._pairs(node.target, node.value)
        return found

    def _pairs(self, target: ast.expr, value: ast.expr | None) -> set[str]:
        """The names of a target that are given arrays of the driver."""
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            return set().union(*(self._pairs(t, v) for t, v in zip(target.elts, value.elts, strict=True)))
        made = isinstance(value, ast.Call) and self._method(value) in ("alloc", "copy", "array")
        return {target.id} if made and isinstance(target, ast.Name) else set()

    @staticmethod
    def _is_driver(node: ast.AST | None) -> bool:
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Driver"

    def _method(self, node: ast.Call) -> str | None:
        """The name of a driver's method that a call calls."""
        func = node.func
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in self.owner.drivers:
            return func.attr
        return None

    # -- nodes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self.owner._is_builder(node):
            return  # translated already
        before = self.arrays
        for each in node.decorator_list:
            self.visit(each)
        self._scope(node, before)
        self.arrays = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if isinstance(node.target, ast.Name) and node.target.id in self.arrays:  # its annotation names the old array
            self.edits.cut(self.edits.span(node.target)[1], self.edits.span(node.annotation)[1])
        else:
            self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.arrays and isinstance(node.ctx, ast.Load):
            self.edits.insert_after(node, ".array")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr == "address" and self._place(node.value):
            return
        self.visit(node.value)

    def _place(self, node: ast.AST) -> bool:
        """Whether a node is an array in GPU memory or a part of it; its indices are translated."""
        if isinstance(node, ast.Name):
            return node.id in self.arrays
        if isinstance(node, ast.Subscript) and self._place(node.value):
            self.visit(node.slice)
            return True
        return False

    def _first_address(self, node: ast.AST) -> str | None:
        """The array of ``x.addresses()[0]``, ``x.addresses().item(0)`` or ``x.address``."""
        if isinstance(node, ast.Subscript):
            index = self.edits.source_of(node.slice).replace(" ", "").strip("()")
            inner: ast.AST = node.value if set(index.split(",")) == {"0"} else node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "item":
            inner = node.func.value if [self.edits.source_of(a) for a in node.args] == ["0"] else node
        elif isinstance(node, ast.Attribute) and node.attr == "address":
            return self.edits.source_of(node.value) if self._place(node.value) else None
        else:
            return None
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "addresses":
            return self.edits.source_of(inner.func.value) if self._place(inner.func.value) else None
        return None

    def visit_Subscript(self, node: ast.Subscript) -> None:
        array = self._first_address(node)
        if array is not None:
            self.edits.replace(node, f"{array}.address")
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        edits, func = self.edits, node.func
        method = self._method(node)
        if self._is_driver(node):
            edits.replace(node, "qpu.open_device()")
        elif method is not None:
            self._driver_call(node, method)
        elif (array := self._first_address(node)) is not None:
            edits.replace(node, f"{array}.address")
        elif isinstance(func, ast.Attribute) and func.attr == "addresses" and self._place(func.value):
            x = edits.source_of(func.value)
            step = f"{x}.array.itemsize * np.arange({x}.array.size, dtype=np.uint32)"
            edits.replace(node, f"({x}.address + {step}.reshape({x}.array.shape))")
        elif isinstance(func, ast.Name) and func.id == "assemble":
            edits.function(node, "qpu.assemble", False)
            edits.append_argument(node, f'isa="{self.isa}"')
            if self.isa is Isa.VC4:
                edits.insert_after(node, ".data")
            self._arguments(node)
        else:
            self.generic_visit(node)

    def _arguments(self, node: ast.Call, skip: tuple[str, ...] = ()) -> None:
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in skip:
                self.visit(keyword.value)

    def _driver_call(self, node: ast.Call, method: str) -> None:
        edits = self.edits
        assert isinstance(node.func, ast.Attribute)
        driver = edits.source_of(node.func.value)
        if method in ("alloc", "copy", "array"):
            edits.function(node, {"alloc": "empty"}.get(method, "array"), True)
            for keyword in node.keywords:
                if keyword.arg == "copy":
                    edits.drop_keyword(node, keyword)
            self._arguments(node)
        elif method in ("program", "dump_program"):
            self._program(node, driver, method)
        elif method == "execute":
            self._execute(node, driver)
        elif method == "close":
            pass
        else:
            edits.note(node, f"{driver}.{method}(...)")
            self._arguments(node)

    def _program(self, node: ast.Call, driver: str, method: str) -> None:
        edits, outer = self.edits, node
        if not node.args:
            edits.note(node, f"{driver}.{method}(...) without a function")
            return
        inner = node.args[0]
        if (
            isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Name)
            and inner.func.id == "assemble"
            and inner.args
        ):
            node = inner  # drv.program(assemble(f))
        parts = [edits.translated(self, a) for a in node.args]
        text = self._assembled(node, driver, parts)
        edits.replace(outer, f"print({text}.text)" if method == "dump_program" else text)

    def _assembled(self, node: ast.Call, driver: str, parts: list[str]) -> str:
        if node.keywords:
            named = ", ".join(f"{k.arg}={self.edits.translated(self, k.value)}" for k in node.keywords)
            parts[0] = f"functools.partial({parts[0]}, {named})"
            self.owner.needs_functools = True
        return f"qpu.assemble({', '.join(parts)}, isa={driver}.isa)"

    def _execute(self, node: ast.Call, driver: str) -> None:
        edits = self.edits
        order = ("n_threads", "program", "uniforms", "timeout") if self.isa is Isa.VC4 else ("code", "uniforms")
        given: dict[str, ast.expr] = dict(zip(order, node.args, strict=False))
        given |= {k.arg: k.value for k in node.keywords if k.arg is not None}
        if len(node.args) > len(order) or any(k.arg is None for k in node.keywords):
            edits.note(node, f"{driver}.execute(...) with arguments that cannot be told apart")
            self._arguments(node)
            return
        code = given.get("program" if self.isa is Isa.VC4 else "code")
        parts = ["" if code is None else edits.translated(self, code)]
        parts += self._vc4_launch(given) if self.isa is Isa.VC4 else self._v3d_launch(given)
        edits.replace(node, f"{driver}.run({', '.join(parts)})")

    def _vc4_launch(self, given: dict[str, ast.expr]) -> list[str]:
        edits = self.edits
        count = edits.translated(self, given["n_threads"]) if "n_threads" in given else "1"
        parts = [edits.translated(self, given["uniforms"])] if "uniforms" in given else ["()"]
        if count != "1":
            parts.append(f"qpu.vc4.Programs({count})")
        if "timeout" in given:
            parts.append(f"timeout_s={edits.translated(self, given['timeout'])} / 1000")
        return parts

    def _v3d_launch(self, given: dict[str, ast.expr]) -> list[str]:
        edits = self.edits
        parts = ["()"]
        if "uniforms" in given:
            array = self._first_address(given["uniforms"])
            if array is None:
                edits.note(given["uniforms"], "a uniform stream by address: pass its buffer")
            parts = [array or edits.translated(self, given["uniforms"])]
        text = {name: edits.translated(self, given[name]) for name in given if name not in ("code", "uniforms")}
        shape = []
        thread = text.pop("thread", "1")
        if "workgroup" in text:
            shape += [f"workgroups={text.pop('workgroup')}", f"batches={thread}"]
        else:
            shape.append(f"workgroups={thread}")
        if "local_invocation" in text:
            shape.append(f"workgroup_size=int(np.prod({text.pop('local_invocation')}))")
        group = text.pop("wgs_per_sg", "16")
        shape.append(
            f"workgroups_per_supergroup={group if group.isdigit() and int(group) <= 16 else f'min(16, {group})'}"
        )
        threading = text.pop("threading", "False")
        shape.append("threads=2" if threading == "False" else f"threads=4 if {threading} else 2")
        if "single_seg" in text:
            shape.append(f"single_segment={text.pop('single_seg')}")
        parts.append(f"qpu.v3d.Dispatch({', '.join(shape)})")
        if "timeout_sec" in text:
            parts.append(f"timeout_s={text.pop('timeout_sec')}")
        for name in text:
            edits.note(given[name], f"{name}= of execute")
        return parts
