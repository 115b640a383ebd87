"""`ufunc`: one function of scalars as a function of arrays, with broadcasting, `out=`, `where=` and `reduce`.

For each pattern of arguments (which are arrays, along which axes they move) a kernel is written and kept. Neighbouring
axes that all arrays treat alike are one axis, so that arrays of one shape are one loop whatever their rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from qpu.errors import CompileError, UsageError
from qpu.lang.patterns import REDUCE, Argument, elementwise
from qpu.lang.schedule import Schedule

if TYPE_CHECKING:
    from qpu.buffers import Buffer
    from qpu.lang.entry import Kernel

__all__ = ["UFunc", "ufunc"]


class UFunc:
    """A function of scalars that takes arrays, numbers, and values of a kernel.

    Called with buffers it launches a kernel and waits; the result is a new buffer, or `out`. Called with numbers alone
    it computes in the language's types. Inside a kernel it is a function like any other.
    """

    def __init__(self, fn: Callable[..., Any], identity: float | None = None) -> None:
        functools.update_wrapper(self, fn)
        self.__qpu_function__ = fn
        self.identity = identity
        self._types: tuple[list[str], str] | None = None
        self._kernels: dict[Any, Kernel] = {}

    @property
    def title(self) -> str:
        """The function's name, such as its kernels can have."""
        name = self.__qpu_function__.__name__
        return name if name.isidentifier() and name not in ("function", "identity") else "unnamed"

    @property
    def types(self) -> tuple[list[str], str]:
        """Types of the parameters and of the result. Raises: CompileError (lang-type)."""
        if self._types is None:
            try:
                self._types = _types(self.__qpu_function__)
            except CompileError as error:
                raise error.with_traceback(None) from None
        return self._types

    def types_for(self, given: Sequence[str]) -> tuple[list[str], str]:
        """Types for a call. given: the types of its arrays, and "int" or "float" for numbers; they decide where there
        is no annotation, numbers after arrays.
        """
        types, result = self.types
        known = [a or g for a, g in zip(types, given, strict=False)]
        arrays = [t for t in known if t not in ("int", "float")]
        whole = next((t for t in arrays if t in ("i32", "u32")), "i32")
        weak = {"int": "f32" if "f32" in arrays or "f16" in arrays else whole, "float": "f32"}
        full = [weak.get(t, t) for t in known]
        if not result:
            from qpu.lang.broadcast import result_of

            result = result_of(self, full)
        return full, result

    def __repr__(self) -> str:
        return f"<ufunc {self.title}>"

    def __reduce__(self) -> tuple[Callable[..., UFunc], tuple[Any, ...]]:
        from qpu.lang.source import Source
        from qpu.lang.travel import take

        return _restored, (*take(Source.of(self.__qpu_function__), []), self.identity)

    def __call__(self, *args: Any, out: Buffer | None = None, where: Buffer | None = None) -> Any:
        """Apply it, element by element, to arguments that are broadcast against each other.

        out: where the result goes; it may be one of the arguments. where: an array of truth values; elsewhere `out`
        keeps what it has, and a new result has zeros. Raises: UsageError, CompileError.
        """
        from qpu.lang.broadcast import apply

        try:
            return apply(self, args, out, where)
        except (CompileError, UsageError) as error:  # at the caller's line
            raise error.with_traceback(None) from None

    def reduce(self, array: Buffer) -> Any:
        """All elements of an array joined into one number, in an order that does not depend on the device.

        The function must be associative and commutative, and `identity` neutral. Raises: UsageError.
        """
        from qpu.lang.broadcast import reduce

        try:
            return reduce(self, array)
        except (CompileError, UsageError) as error:
            raise error.with_traceback(None) from None

    # -- kernels

    def kernel_for(
        self, result: str, arguments: Sequence[Argument], where: tuple[bool, ...] | None, same: int | None
    ) -> Kernel:
        """The kernel for a pattern. where: how the condition moves; same: which argument is `out`."""
        key = (result, tuple(arguments), where, same)
        found = self._kernels.get(key)
        if found is None:
            text = elementwise(self.title, result, arguments, where, same)
            found = self._kernels[key] = self._written(text)
        return found

    def reducer(self, type_: str) -> Kernel:
        """The kernel that joins an array into one item a worker."""
        found = self._kernels.get(type_)
        if found is None:
            found = self._kernels[type_] = self._written(REDUCE.format(name=self.title, type=type_))
        return found

    def _written(self, text: str) -> Kernel:
        from qpu.lang.entry import Kernel
        from qpu.lang.source import function_of

        names = {"function": self.__qpu_function__, "identity": self.identity}
        return Kernel(function_of(text, names=names), Schedule())


def _types(fn: Callable[..., Any]) -> tuple[list[str], str]:
    """Types of parameters and result by their annotations. Raises: CompileError (lang-type)."""
    from qpu.lang.compile import scalar_types

    return scalar_types(fn)


def _restored(rows: Any, entries: Any, identity: float | None) -> UFunc:
    """A ufunc from a pickle."""
    from qpu.lang.travel import restore

    return UFunc(restore(rows, entries), identity)


@overload
def ufunc(fn: Callable[..., Any], /) -> UFunc: ...
@overload
def ufunc(*, identity: float | None = None) -> Callable[[Callable[..., Any]], UFunc]: ...
def ufunc(
    fn: Callable[..., Any] | None = None, *, identity: float | None = None
) -> UFunc | Callable[[Callable[..., Any]], UFunc]:
    """Make a function of arrays of a function of scalars, whose parameters and result have the language's types.

    identity: the neutral element of an associative and commutative function of two values, which then has `reduce`.
    """
    if fn is not None:
        if not callable(fn):
            raise UsageError(f"@ufunc of {fn!r}", help="write @ufunc or @ufunc(identity=0) above a function")
        return UFunc(fn)
    return lambda f: UFunc(f, identity)
