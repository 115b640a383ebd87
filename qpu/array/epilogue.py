"""What follows a reduction in its kernel: elementwise operations on its result, with the arrays that they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from qpu.array.dtypes import NpDType, Scalar
from qpu.array.emit import Step
from qpu.array.fuse import Walk, spread_out
from qpu.array.node import Node

__all__ = ["Epilogue"]


class Epilogue(NamedTuple):
    """leaves: arrays that are read; strides: of each on the axes of the result; entries: as of a `Walk`; dtype: of what
    is stored.
    """

    leaves: list[Node]
    strides: list[list[int]]
    scalars: list[Scalar]
    entries: list[Any]
    dtype: NpDType

    @classmethod
    def of(cls, walk: Walk, node: Node, axes: Sequence[int], root: Node) -> Epilogue:
        """What a group does with a reduction along these axes."""
        strides = [spread_out(leaf, node.shape) for leaf in walk.leaves]
        if node.attr[2]:  # the reduced axes were kept, with one element
            strides = [[s for k, s in enumerate(row) if k not in axes] for row in strides]
        return cls(walk.leaves, strides, walk.scalars, walk.entries, root.dtype)

    def steps(self, leaf: int, scalar: int, value: int, step: int) -> list[Step]:
        """The operations, with numbers of values in the whole kernel. leaf, scalar, step: of the first of each; value:
        of the reduction.
        """
        places: list[int] = []
        found: list[Step] = []
        for entry in self.entries:
            if entry is True:
                places.append(value)
            elif entry is None:
                places.append(leaf)
                leaf += 1
            elif isinstance(entry, tuple):
                places.append(step + len(found))
                found.append(Step(entry[0], tuple(places[a] for a in entry[1]), entry[2].name, entry[3]))
            else:
                places.append(scalar)
                scalar += 1
        return found
