"""The labels of one pass: definitions, references and byte offsets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qpu.errors import suggest
from qpu.vc4.vc4asm.fault import Fault
from qpu.vc4.vc4asm.text import Source
from qpu.vc4.vc4asm.values import Key, LabelRef

__all__ = ["Labels"]


class Labels:
    """The label table. offsets: label -> byte offset, as defined so far. known: offsets of the pass before.

    used: offsets that expressions used; where they differ from the final ones, another pass is needed.
    """

    def __init__(self, offsets: dict[Key, int], known: Mapping[Key, int]) -> None:
        self.offsets = offsets
        self.known = known
        self.used: set[tuple[Key, int]] = set()
        self._counts: dict[str, int] = {}  # definitions of each local label
        self._defined: dict[Key, Source] = {}
        self._references: dict[Key, tuple[Source, int, str]] = {}

    def define(self, name: str, export: bool, pos: int, source: Source) -> Key:
        """The key of a label defined at `source`."""
        key = (name, 0)
        if name[0].isdigit():
            if export:
                raise Fault("label-export", f"the local label {name} cannot be exported", pos,
                            help="give it a name that starts with a letter")  # fmt: skip
            self._counts[name] = self._counts.get(name, 0) + 1
            key = (name, self._counts[name])
        elif key in self._defined:
            _, file, line = self._defined[key]
            raise Fault("label-twice", f"the label {name!r} is already defined at {file}:{line}", pos,
                        help="rename one of them; a name that starts with a digit may be used again")  # fmt: skip
        self._defined[key] = source
        return key

    def reference(self, name: str, pos: int, source: Source) -> LabelRef:
        """The label of a reference: ``1`` or ``1b`` is the last label 1, ``1f`` the next one; likewise ``1_x``."""
        key = (name, 0)
        if name[0].isdigit():
            count, forward = self._counts.get(name, 0), False
            if not count and name[-1] in "bf":
                forward = name[-1] == "f"
                name = name[:-1]
                count = self._counts.get(name, 0)
            if not forward and not count:
                raise Fault("label-undefined", f"no label {name} has been defined so far", pos,
                            help=f"write :{name}f for the next one")  # fmt: skip
            key = (name, count + forward)
        self._references.setdefault(key, (source, pos, name))
        return LabelRef(key)

    def address(self, label: LabelRef) -> int:
        """The byte offset of a label; 0 while it is not known."""
        offset = self.known.get(label.key)
        if offset is None:
            offset = self.offsets.get(label.key, 0)
        self.used.add((label.key, offset))
        return offset + label.addend

    def difference(self, a: LabelRef, b: LabelRef) -> int:
        """Bytes from label `b` to label `a`."""
        return a.addend - b.addend if a.key == b.key else self.address(a) - self.address(b)

    def undefined(self) -> Iterator[tuple[Fault, Source]]:
        """References to labels that the text does not define."""
        for key, (source, pos, name) in self._references.items():
            if key in self.offsets:
                continue
            if key[1]:
                yield Fault("label-undefined", f"there is no label {key[0]} after this line", pos,
                            help=f"define it: {key[0]}:"), source  # fmt: skip
            else:
                help = suggest(name, (k[0] for k in self.offsets if not k[1]), ":{}") or f"define it: {name}:"
                yield Fault("label-undefined", f"the label {name!r} is not defined", pos, help=help), source

    @property
    def settled(self) -> bool:
        """True when every offset that was used is the final one."""
        return all(self.offsets.get(key, offset) == offset for key, offset in self.used)
