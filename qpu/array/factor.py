"""Functions of the `linalg` extension that factorise matrices: the processor computes them, with NumPy's LAPACK.

Factorisations of the sizes that fit a Pi are chains of short dependent steps, which the processor takes faster than
launches begin. Operands and results are copied, which `gpu.transfers` counts; dtypes stay float32 and complex64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qpu.array.array import Array
from qpu.array.build import cast
from qpu.array.dtypes import C64, F32, I32
from qpu.array.manipulation import array_of
from qpu.errors import UsageError

__all__ = ["cholesky", "det", "eigh", "eigvalsh", "inv", "matrix_rank", "pinv", "qr", "slogdet", "solve", "svd",
           "svdvals"]  # fmt: skip


class Eigh(NamedTuple):
    """eigenvalues: in ascending order; eigenvectors: columns."""

    eigenvalues: Array
    eigenvectors: Array


class Qr(NamedTuple):
    """Q: orthogonal; R: upper triangular."""

    Q: Array
    R: Array


class Slogdet(NamedTuple):
    """sign: 1, -1, 0, or a complex number of size 1; logabsdet: the logarithm of the size."""

    sign: Array
    logabsdet: Array


class Svd(NamedTuple):
    """U, S, Vh: U times S times Vh is the matrix; S in descending order."""

    U: Array
    S: Array
    Vh: Array


def _given(name: str, x: Array, square: bool) -> Any:
    """A matrix, or a stack of them, in ordinary memory. Raises: UsageError."""
    node = array_of(x)
    if node.dtype.kind not in "fc":
        raise UsageError(f"{name} of {node.dtype.name}", help="write the cast: xp.astype(x, xp.float32)")
    if len(node.shape) < 2 or (square and node.shape[-1] != node.shape[-2]):
        raise UsageError(f"{name} of shape {node.shape}", help="square matrices" if square else "two axes or more")
    if node.dtype not in (F32, C64):
        node = cast(node, F32)
    return Array(node).numpy()


def _run(name: str, function: Callable[..., Any], x: Array, *given: Any, **options: Any) -> Sequence[Array]:
    """function(*given) of NumPy, its results on the device of x. Raises: UsageError."""
    try:
        with np.errstate(all="ignore"):
            found = function(*given, **options)
    except np.linalg.LinAlgError as error:
        raise UsageError(f"{name}: {error}", help="a matrix for which it exists") from None
    xp = x.__array_namespace__()
    results = []
    for part in found if isinstance(found, tuple) else (found,):
        data = np.asarray(part)
        results.append(
            xp.asarray(data, dtype=I32 if data.dtype.kind in "iu" else C64 if data.dtype.kind == "c" else F32)
        )
    return results


def cholesky(x: Array, /, *, upper: bool = False) -> Array:
    """The lower triangular factor of positive definite matrices, or the upper one. Raises: UsageError."""
    data = _given("cholesky", x, True)
    lower: Array = _run("cholesky", np.linalg.cholesky, x, data)[0]
    xp = x.__array_namespace__()
    return xp.conj(lower.mT) if upper else lower


def det(x: Array, /) -> Array:
    """The determinants of square matrices. Raises: UsageError."""
    return _run("det", np.linalg.det, x, _given("det", x, True))[0]


def eigh(x: Array, /) -> Eigh:
    """Eigenvalues and eigenvectors of symmetric or Hermitian matrices. Raises: UsageError."""
    return Eigh(*_run("eigh", np.linalg.eigh, x, _given("eigh", x, True)))


def eigvalsh(x: Array, /) -> Array:
    """The eigenvalues of symmetric or Hermitian matrices, in ascending order. Raises: UsageError."""
    return _run("eigvalsh", np.linalg.eigvalsh, x, _given("eigvalsh", x, True))[0]


def inv(x: Array, /) -> Array:
    """The inverses of square matrices. Raises: UsageError for a singular one."""
    return _run("inv", np.linalg.inv, x, _given("inv", x, True))[0]


def _rank(data: Any, rtol: Any) -> Any:
    """How many singular values exceed rtol times the largest one."""
    values = np.linalg.svd(data, compute_uv=False)
    if rtol is None:
        rtol = max(data.shape[-2:]) * np.finfo(data.dtype).eps
    top = values.max(axis=-1, keepdims=True, initial=0.0)
    return np.sum(values > top * np.asarray(rtol)[..., None], axis=-1, dtype=np.int32)


def _numbers(x: Any) -> Any:
    return x.numpy() if isinstance(x, Array) else x


def matrix_rank(x: Array, /, *, rtol: Any = None) -> Array:
    """The ranks of matrices, int32: singular values above rtol times the largest one, by default max(m, n) eps."""
    return _run("matrix_rank", _rank, x, _given("matrix_rank", x, False), _numbers(rtol))[0]


def pinv(x: Array, /, *, rtol: Any = None) -> Array:
    """The pseudo-inverses of matrices; rtol as of `matrix_rank`. Raises: UsageError."""
    data = _given("pinv", x, False)
    limit = max(data.shape[-2:]) * np.finfo(data.dtype).eps if rtol is None else _numbers(rtol)
    return _run("pinv", np.linalg.pinv, x, data, limit)[0]


def qr(x: Array, /, *, mode: str = "reduced") -> Qr:
    """Orthogonal and upper triangular factors of matrices. mode: "reduced" or "complete". Raises: UsageError."""
    if mode not in ("reduced", "complete"):
        raise UsageError(f"mode = {mode!r}", help="'reduced' or 'complete'")
    data = _given("qr", x, False)
    numpy: Any = np.linalg.qr
    return Qr(*_run("qr", lambda a: tuple(numpy(a, mode)), x, data))


def slogdet(x: Array, /) -> Slogdet:
    """Sign and logarithm of the size of the determinants of square matrices. Raises: UsageError."""
    return Slogdet(*_run("slogdet", lambda a: tuple(np.linalg.slogdet(a)), x, _given("slogdet", x, True)))


def solve(x1: Array, x2: Array, /) -> Array:
    """The x with x1 x = x2; x2: a vector, or matrices. Raises: UsageError for a singular matrix."""
    a = _given("solve", x1, True)
    right = x2 if array_of(x2, "x2").shape else None
    if right is None or x2.dtype.kind not in "fc" or x2.shape[0 if x2.ndim == 1 else -2] != a.shape[-1]:
        raise UsageError(f"solve of {x1.shape} and {x2.dtype.name}{list(x2.shape)}", help="as many rows, floats")
    b = x2.numpy()
    if x2.ndim == 1:
        b = b[:, None]
    found = _run("solve", np.linalg.solve, x1, a, b)[0]
    return found[..., 0] if x2.ndim == 1 else found


def svd(x: Array, /, *, full_matrices: bool = True) -> Svd:
    """The singular value decomposition of matrices. Raises: UsageError."""
    data = _given("svd", x, False)
    return Svd(*_run("svd", lambda a: tuple(np.linalg.svd(a, full_matrices)), x, data))


def svdvals(x: Array, /) -> Array:
    """The singular values of matrices in descending order. Raises: UsageError."""
    data = _given("svdvals", x, False)
    return _run("svdvals", lambda a: np.linalg.svd(a, compute_uv=False), x, data)[0]
