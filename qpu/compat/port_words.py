"""The part of `qpu port` for builder functions: words of the old builders become calls of ours.

It edits names and keywords where they stand, so that layout and comments stay. The tables are those of the dialects.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from qpu.compat.edits import Edits
from qpu.compat.tables import (
    V3D_CONDS,
    V3D_MODIFIERS,
    VC4_ADD,
    VC4_BRANCHES,
    VC4_CONDS,
    VC4_MUL,
    VC4_PACK,
    VC4_REGISTERS,
    VC4_SIGNALS,
)
from qpu.core.isa import Isa

__all__ = ["V3dWords", "Vc4Words", "Words"]

_SAME = (
    "sema_up sema_down mutex_acquire mutex_release interrupt start_dma_load wait_dma_load start_dma_store "
    "wait_dma_store raw"
).split()
_SETUP_NAMES = {"Y": "y", "X": "x", "H": "part", "B": "part", "val": "stride"}


def text_of(node: ast.expr) -> str | None:
    """The string that a literal is."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


class Words:
    """Translates the body of one builder function. first: the name of its first parameter."""

    def __init__(self, edits: Edits, names: frozenset[str], first: str, own: frozenset[str]) -> None:
        """names: words of the dialect. own: names that the function binds itself."""
        self.edits = edits
        self.names = names - own
        self.first = first

    def word(self, node: ast.AST) -> str | None:
        """The word of the dialect that a node is: ``fadd`` or ``asm.fadd``."""
        if isinstance(node, ast.Name) and node.id in self.names:
            return node.id
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self.first:
            return node.attr if node.attr in self.names else None
        return None

    def body(self, function: ast.FunctionDef) -> None:
        """Translate the statements."""
        for statement in function.body:
            self.visit(statement)

    def visit(self, node: ast.AST) -> None:
        """Translate a node and what is in it."""
        if isinstance(node, ast.Call) and self.call(node):
            return
        if isinstance(node, (ast.Name, ast.Attribute)) and self.leaf(node):
            return
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def call(self, node: ast.Call) -> bool:
        """Translate a call, if it is one of the dialect."""
        raise NotImplementedError

    def leaf(self, node: ast.Name | ast.Attribute) -> bool:
        """Translate a name."""
        if isinstance(node, ast.Name) and node.id == self.first:
            self.edits.replace(node, "q")
            return True
        word = self.word(node)
        if word is None:
            return False
        register = self.register(word)
        if register is None:
            self.edits.note(node, f"{word} as a value")
            return True
        self.edits.replace(node, register)
        return True

    def register(self, word: str) -> str | None:
        """Our expression for a register or signal."""
        raise NotImplementedError

    def others(self, node: ast.Call, done: set[str]) -> None:
        """Translate the arguments of a call, keywords of `done` left out."""
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg not in done:
                self.visit(keyword.value)

    def keywords(self, node: ast.Call) -> dict[str, ast.keyword]:
        """The keywords by name."""
        return {k.arg: k for k in node.keywords if k.arg is not None}

    def chain(self, node: ast.Call) -> Iterator[tuple[ast.Call, str, bool]]:
        """The calls of ``fadd(...).fmul(...)``, innermost first: call, word, whether it is chained."""
        func = node.func
        word = self.word(func)
        if word is not None:
            yield node, word, False
        elif isinstance(func, ast.Attribute) and isinstance(func.value, ast.Call):
            before = list(self.chain(func.value))
            if before:
                yield from before
                yield node, func.attr, True


class Vc4Words(Words):
    """Words of PyVideoCore."""

    def register(self, word: str) -> str | None:
        """Our expression for a register."""
        if word[:2] in ("ra", "rb") and word[2:].isdigit():
            return f"q.{word[:2]}[{word[2:]}]"
        return f"q.{word}" if word in VC4_REGISTERS or (word[:1] == "r" and word[1:].isdigit()) else None

    def visit(self, node: ast.AST) -> None:
        """Translate a node: a label, a pack mode, or what `Words.visit` knows."""
        if isinstance(node, ast.Expr) and self.label(node.value) is not None:
            self.edits.replace(node, f'q.label("{self.label(node.value)}")')
            return
        super().visit(node)

    def body(self, function: ast.FunctionDef) -> None:
        """Translate the statements; flags that nothing reads are not set."""
        self.unread = self._unread(function)
        super().body(function)

    def _unread(self, function: ast.FunctionDef) -> set[ast.Call]:
        """Instructions whose flags are set again, or the program ends, before anything could read them."""
        found: set[ast.Call] = set()
        for block in ast.walk(function):
            waiting: ast.Call | None = None
            for statement in (
                getattr(block, "body", ()) if isinstance(block, (ast.FunctionDef, ast.For, ast.With)) else ()
            ):
                call = statement.value if isinstance(statement, ast.Expr) else None
                if isinstance(call, ast.Constant):
                    continue
                effect, setter = self._flags(call) if isinstance(call, ast.Call) else ("reads", None)
                if effect in ("sets", "ends") and waiting is not None:
                    found.add(waiting)
                if effect != "neither":
                    waiting = setter if effect in ("sets", "reads and sets") else None
        return found

    def _flags(self, call: ast.Call) -> tuple[str, ast.Call | None]:
        """What a statement does with the flags, and the call that sets them."""
        calls = list(self.chain(call))
        if not calls:
            return "reads", None  # another builder function, perhaps
        reads, setter = False, None
        for each, word, chained in calls:
            named = self.keywords(each)
            reads |= word in VC4_BRANCHES or (word not in {*VC4_ADD, *VC4_MUL, "ldi", *_SAME} and word[:6] != "setup_")
            reads |= "cond" in named
            flag = named.get("set_flags")
            if word == "exit":
                return "ends", None
            if flag is not None:
                if not isinstance(flag.value, ast.Constant):
                    return "reads", None
                setter = each if flag.value.value else setter
            elif word in VC4_ADD and word != "nop" and not chained:
                setter = each
        return ("reads" if reads else "neither") if setter is None else ("reads and sets" if reads else "sets"), setter

    def label(self, node: ast.AST | None) -> str | None:
        """The name of ``L.name``."""
        found = isinstance(node, ast.Attribute) and self.word(node.value) == "L"
        return node.attr if found and isinstance(node, ast.Attribute) else None

    def call(self, node: ast.Call) -> bool:
        """Translate a call."""
        func = node.func
        if isinstance(func, ast.Attribute) and func.attr in ("pack", "unpack") and node.args:
            mode = text_of(node.args[0])
            self.visit(func.value)
            if mode is not None:
                self.edits.replace(node.args[0], f'"{VC4_PACK.get(mode, mode)}"')
            return True
        calls = list(self.chain(node))
        for call, word, chained in calls:
            self.operation(call, word, chained)
        return bool(calls)

    def operation(self, node: ast.Call, word: str, chained: bool) -> None:
        edits, named = self.edits, self.keywords(node)
        if word in VC4_BRANCHES:
            self.branch(node, word, named)
        elif word.startswith("setup_"):
            self.setup(node, word, named)
        elif word == "ldi":
            self.ldi(node, named)
        elif word == "exit":
            edits.replace(node.func, "q.end")
        elif word in _SAME:
            edits.replace(node.func, f"q.{word}")
            self.others(node, set())
        elif word in VC4_MUL and (chained or word not in VC4_ADD):
            rotate = word == "rotate" and chained
            ours = "mov" if rotate else VC4_MUL[word]
            edits.function(node, ours if chained else f"q.{ours}", chained)
            if rotate and len(node.args) == 3:
                edits.insert(node.args[2], "rotate=")
            self.options(node, named, flags=False)
        elif word in VC4_ADD:
            edits.function(node, f"q.{VC4_ADD[word]}", False)
            self.options(node, named, flags=word != "nop")
        else:
            edits.note(node, f"{word}(...)")

    def options(self, node: ast.Call, named: dict[str, ast.keyword], flags: bool) -> None:
        """The keywords cond, sig and set_flags. flags: whether flags are set without set_flags=False."""
        edits = self.edits
        for name, table in (("cond", VC4_CONDS), ("sig", VC4_SIGNALS)):
            if name not in named:
                continue
            value = text_of(named[name].value)
            if value is None or value not in table:
                edits.note(named[name].value, f"{name}={edits.source_of(named[name].value)}")
            elif (ours := table[value]) is None or ours == "always":
                edits.drop_keyword(node, named[name])
            else:
                edits.replace(named[name].value, f'"{ours}"' if name == "cond" else f"q.{ours}")
        if "set_flags" in named:
            value_ = named["set_flags"].value
            if not isinstance(value_, ast.Constant):
                edits.note(value_, f"set_flags={edits.source_of(value_)}: write push='z' where it is true")
                edits.drop_keyword(node, named["set_flags"])
            elif value_.value and node not in self.unread:
                edits.replace(named["set_flags"], 'push="z"')
            else:
                edits.drop_keyword(node, named["set_flags"])
        elif flags and node not in self.unread:
            edits.append_argument(node, 'push="z"')
        self.others(node, {"cond", "sig", "set_flags"})

    def branch(self, node: ast.Call, word: str, named: dict[str, ast.keyword]) -> None:
        cond = VC4_BRANCHES[word]
        target = node.args[0] if node.args else named["target"].value if "target" in named else None
        absolute = named.get("absolute")
        label = self.label(target)
        place = f'"{label}"' if label is not None else "0" if target is None else self.edits.translated(self, target)
        if absolute is not None and isinstance(absolute.value, ast.Constant) and absolute.value.value:
            place = f"q.absolute({place})"
        parts = [place] + ([] if cond == "always" else [f'cond="{cond}"'])
        for name in ("reg", "link"):
            if name in named:
                parts.append(f"{name}={self.edits.translated(self, named[name].value)}")
        self.edits.replace(node, f"q.b({', '.join(parts)})")

    def ldi(self, node: ast.Call, named: dict[str, ast.keyword]) -> None:
        edits = self.edits
        edits.function(node, "q.ldi", False)
        if len(node.args) == 3:
            first, second, value = (edits.translated(self, each) for each in node.args)
            edits.replace(node.args[1], value)
            edits.replace(node.args[2], f"dst2={second}")
            edits.replace(node.args[0], first)
            if "cond" in named:
                edits.append_argument(node, f'cond2="{VC4_CONDS.get(text_of(named["cond"].value) or "", "always")}"')
            node.args = []
        self.options(node, named, flags=False)

    def setup(self, node: ast.Call, word: str, named: dict[str, ast.keyword]) -> None:
        edits = self.edits
        stride = node.args[0] if node.args else named["val"].value if "val" in named else None
        if word.endswith("_stride") and stride is not None and not isinstance(stride, (ast.Constant, ast.BinOp)):
            self.stride(node, word, stride, named)
            return
        edits.function(node, f"q.{word}", False)
        for name, keyword in named.items():
            ours = "n" if name == "nrows" and word == "setup_vpm_read" else _SETUP_NAMES.get(name, name)
            if name == "tmp_reg":
                edits.drop_keyword(node, keyword)
            elif ours != name:
                edits.rename_keyword(keyword, ours)
        if word in ("setup_dma_load", "setup_dma_store") and not node.args and "nrows" not in named:
            edits.append_argument(node, "nrows=16")
        self.others(node, {"tmp_reg"})

    def stride(self, node: ast.Call, word: str, stride: ast.expr, named: dict[str, ast.keyword]) -> None:
        """A stride from a register: two instructions."""
        edits = self.edits
        scratch = edits.translated(self, named["tmp_reg"].value) if "tmp_reg" in named else "q.r0"
        load = "load" in word
        block = "blockmode" in named and edits.source_of(named["blockmode"].value) == "True"
        head = "9 << 28" if load else "3 << 30 | 1 << 16" if block else "3 << 30"
        setup = "q.vpmvcd_rd_setup" if load else "q.vpmvcd_wr_setup"
        indent = " " * node.col_offset
        second = f"q.or_({setup}, {scratch}, {edits.translated(self, stride)})"
        edits.replace(node, f"q.ldi({scratch}, {head})\n{indent}{second}")


class V3dWords(Words):
    """Words of py-videocore6 and py-videocore7."""

    def __init__(self, edits: Edits, names: frozenset[str], first: str, own: frozenset[str], isa: Isa) -> None:
        super().__init__(edits, names, first, own)
        self.isa = isa
        self.space: list[str] = []
        self.loops: set[str] = set()

    def register(self, word: str) -> str | None:
        """Our expression for a register or signal."""
        if word[:2] == "rf" and word[2:].isdigit():
            return f"q.rf[{word[2:]}]"
        if word in ("recip", "rsqrt", "exp", "log", "sin", "rsqrt2"):
            return f"q.sfu_{word}"
        return {"link": "q.lri", "L": None, "R": None, "loop": None, "b": None}.get(word, f"q.{word}")

    def visit(self, node: ast.AST) -> None:
        """Translate a node: a label, a loop, a namespace, or what `Words.visit` knows."""
        edits = self.edits
        if isinstance(node, ast.Expr) and (name := self.named(node.value, "L")) is not None:
            edits.replace(node, f'q.label("{name}")')
            return
        if isinstance(node, ast.With):
            added = 0
            for item in node.items:
                inner = item.context_expr
                if self.word(inner) == "loop":
                    edits.replace(inner, "q.loop()")
                    if isinstance(item.optional_vars, ast.Name):
                        self.loops.add(item.optional_vars.id)
                elif isinstance(inner, ast.Call) and self.word(inner.func) == "namespace" and len(node.items) == 1:
                    space = text_of(inner.args[0]) if inner.args else None
                    if space is None:
                        edits.note(inner, "a namespace whose name is computed")
                    self.space.append(space or "")
                    added += 1
                    edits.replace_span(node, inner, f"if True:  # labels of {space!r}", after=":")
                else:
                    self.visit(item)
            for statement in node.body:
                self.visit(statement)
            del self.space[len(self.space) - added :]
            return
        super().visit(node)

    def named(self, node: ast.AST, bank: str) -> str | None:
        """The label of ``L.name`` or ``R.name``."""
        if isinstance(node, ast.Attribute) and self.word(node.value) == bank:
            return ".".join([*self.space, node.attr])
        return None

    def call(self, node: ast.Call) -> bool:
        """Translate a call."""
        func, edits = node.func, self.edits
        if isinstance(func, ast.Attribute) and func.attr in ("pack", "unpack") and node.args:
            mode = text_of(node.args[0])
            self.visit(func.value)
            if mode is None or mode not in V3D_MODIFIERS:
                edits.note(node, f"{func.attr}({edits.source_of(node.args[0])})")
            else:
                edits.modifier(node, V3D_MODIFIERS[mode])
            return True
        if isinstance(func, ast.Attribute) and func.attr == "unif_addr" and isinstance(func.value, ast.Call):
            self.branch(node, func.value, node)
            return True
        if self.word(func) == "b":
            self.branch(node, node, None)
            return True
        if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id in self.loops:
            named = self.keywords(node)
            cond = text_of(named["cond"].value) if "cond" in named else None
            text = "" if cond in (None, "always") else f', cond="{cond}"'
            edits.replace(node, f"q.b({func.value.id}.start{text})")
            return True
        calls = list(self.chain(node))
        for index, (call, word, chained) in enumerate(calls):
            self.operation(call, word, chained, index + 1 < len(calls))
        return bool(calls)

    def operation(self, node: ast.Call, word: str, chained: bool, goes_on: bool) -> None:
        edits, named = self.edits, self.keywords(node)
        if word in ("ldunifrf", "ldunifarf", "ldtmu", "ldvary", "ldtlb", "ldtlbu", "raw"):
            edits.function(node, f"q.{word}", False)
            self.others(node, set())
            return
        if word == "rotate" and (self.isa is Isa.V3D42 or chained):
            if len(node.args) == 3:
                edits.function(node, "mov" if chained else "q.nop().mov", chained)
                edits.replace(node.args[2], f"sig=q.rot({edits.translated(self, node.args[2])})")
                node.args = node.args[:2]
            else:
                edits.note(node, "rotate(...)")
        elif word == "mov" and self.isa is Isa.V3D42 and not chained and goes_on:
            edits.function(node, "q.or_", False)
            edits.insert_after(node.args[1], f", {edits.translated(self, node.args[1])}")
        else:
            ours = "rot" if word == "rotate" else word
            edits.function(node, ours if chained else f"q.{ours}", chained)
        if "cond" in named:
            value = text_of(named["cond"].value)
            if value in V3D_CONDS:
                edits.rename_keyword(named["cond"], V3D_CONDS[str(value)])
            else:
                edits.note(named["cond"].value, f"cond={edits.source_of(named['cond'].value)}")
        floats = word.startswith("f") and not word.startswith("flpop")
        for argument in node.args:
            value_ = argument.value if isinstance(argument, ast.Constant) else None
            if (isinstance(value_, float) and not floats) or (isinstance(value_, int) and value_ and floats):
                edits.replace(argument, f"q.imm({edits.source_of(argument)})")
        self.others(node, {"cond"})

    def branch(self, whole: ast.Call, node: ast.Call, stream: ast.Call | None) -> None:
        edits, named = self.edits, self.keywords(node)
        target = node.args[0] if node.args else None
        label = None if target is None else self.named(target, "R")
        if target is None:
            edits.note(node, "b(...) without a target")
            return
        place = edits.translated(self, target) if label is None else f'"{label}"'
        if "absolute" in named and edits.source_of(named["absolute"].value) == "True":
            place = f"q.absolute({place})"
        parts = [place]
        cond = text_of(named["cond"].value) if "cond" in named else None
        if cond not in (None, "always"):
            parts.append(f'cond="{cond}"')
        if stream is not None:
            more = self.keywords(stream)
            if stream.args or "src" in more:
                source = stream.args[0] if stream.args else more["src"].value
                parts.append('unif="lri"' if self.word(source) == "link" else f"unif={edits.translated(self, source)}")
            else:
                absolute = "absolute" in more and edits.source_of(more["absolute"].value) == "True"
                parts.append('unif="abs"' if absolute else 'unif="rel"')
        elif "unif_addr" in named:
            parts.append(f"unif={edits.translated(self, named['unif_addr'].value)}")
        if "set_link" in named:
            parts.append(f"link={edits.source_of(named['set_link'].value)}")
        edits.replace(whole, f"q.b({', '.join(parts)})")
