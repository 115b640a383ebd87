"""Kernels for other types: the same text with other element types, so that one function serves a family of dtypes."""

from __future__ import annotations
import __future__

import ast
import re
from functools import cache
from typing import Any

import numpy as np

from qpu.lang import surface
from qpu.lang.entry import Kernel
from qpu.lang.source import Source
from qpu.lang.types import DTYPES

__all__ = ["ALL", "NARROW", "name_of", "retyped"]

_FLAGS = __future__.annotations.compiler_flag
NARROW = (np.int8, np.uint8, np.int16, np.uint16)
"""Types that kernels load as i32."""
ALL = (np.float32, np.int32, np.uint32, *NARROW)
"""Types of real numbers that the library's arrays hold."""
_NAMES = {np.dtype(t.numpy): t.name for t in reversed(DTYPES.values()) if t.lanes == 1}


def name_of(dtype: Any) -> str:
    """The language's name of an element type: "f32" for float32; "u8" for bool, whose values are 0 and 1."""
    kind = np.dtype(dtype)
    return "u8" if kind == np.dtype(bool) else _NAMES[kind]


@cache
def retyped(k: Kernel, value: str, **arrays: str) -> Kernel:
    """`k`, written for f32, for values of the type `value` ("f32", "i32", "u32").

    Every f32 in its text becomes `value`; parameters that are named get arrays of their own type: ``x="u8"``.
    """
    source = k.source
    tree = source.tree
    assert isinstance(tree, ast.FunctionDef)
    lines = source.text.splitlines(True)[tree.lineno - 1 : tree.end_lineno]
    text = re.sub(r"\bf32\b", value, "".join(lines))
    for name, type_ in arrays.items():
        text, count = re.subn(rf"\b({name}: \w+)\[\w+\]", rf"\1[{type_}]", text, count=1)
        assert count, f"{tree.name} has no array {name}"
    names = {**k.fn.__globals__, **{t: getattr(surface, t) for t in (value, *arrays.values())}}
    first = source.first + tree.lineno - 1
    exec(compile("\n" * (first - 1) + text, source.file, "exec", flags=_FLAGS, dont_inherit=True), names)
    made = names[tree.name]
    body = ast.parse(text).body[0]
    assert isinstance(body, ast.FunctionDef)
    made.__qpu_source__ = Source(made, source.file, text, first, source.indent, body)
    return Kernel(made, k.schedule)
