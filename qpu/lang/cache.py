"""Compiled kernels in files: the cache on disk, and files that `qpu build` makes for `load_cache`.

An entry is a line of JSON and the instruction words. Its key covers the compiler's own source, the kernel's syntax tree
without positions, every name that it reaches with its value, constants and knobs. Places of the source are kept as
numbers of syntax tree nodes, so that they are right wherever the kernel is by now.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from qpu.core.cache_files import CacheFiles, base_directory, chosen_directory
from qpu.core.isa import Isa
from qpu.errors import Diagnostic, Loc, Severity, UsageError, counted
from qpu.lang import surface
from qpu.lang.bounds import Access, evaluator
from qpu.lang.compiled import Compiled
from qpu.lang.source import Source
from qpu.lang.specialise import Special, specialise
from qpu.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "compiler_hash",
    "directory",
    "entries_of",
    "file_of",
    "key_of",
    "load",
    "load_file",
    "load_made",
    "pack",
    "remember",
    "save",
]

LIMIT: Final = 64 << 20  # bytes of all entries
ENTRY_LIMIT: Final = 8 << 20
_MAGIC: Final = b"qpu kernels 1\n"
_SIMPLE: Final = (int, float, complex, str, bytes, bool, types.NoneType, types.EllipsisType)
_LONGEST: Final = 10_000  # characters of a constant's repr that may be part of a key
_said: set[str] = set()
_loaded: dict[str, bytes] = {}


@cache
def compiler_hash() -> str:
    """Stands for the source of the compiler; "" where it has none."""
    root = Path(__file__).parent.parent
    found = hashlib.sha256()
    try:
        for name in ("errors.py", "core", "lang", "v3d", "vc4"):
            at = root / name
            for path in [at] if at.is_file() else sorted(at.glob("*.py")):
                found.update(f"{path.name}\0".encode() + path.read_bytes())
    except OSError:
        return ""
    return found.hexdigest()[:32]


def directory() -> Path | None:
    """Where compiled kernels are kept; None when switched off, or without a home or the compiler's source."""
    chosen = chosen_directory()
    base = chosen if chosen is not None else base_directory()
    return Path(base) / "lang" / compiler_hash() if base and compiler_hash() else None


def _files(where: Path) -> CacheFiles:
    return CacheFiles(
        where, ".qpk", "compiled kernels", lambda data: hashlib.sha256(data).hexdigest(), LIMIT, ENTRY_LIMIT, _said,
        nested=True,
    )  # fmt: skip


# -- keys


def _parts(source: Source) -> list[str] | None:
    """What a kernel is: its tree, and the values that it reaches; None where no text stands for one of them."""
    parts = [_tree(source)]
    for reached in source.reached:
        text = _text(reached.value)
        if text is None:
            return None
        parts.append(f"{reached.by.fn.__name__}.{reached.name}={text}")
    return parts


def identity(source: Source) -> str | None:
    """A name for a kernel that does not depend on the compiler; None where a text cannot stand for what it reaches."""
    parts = _parts(source)
    return None if parts is None else hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def key_of(source: Source, special: Special) -> str | None:
    """The name of an entry; None where the kernel reaches an object that a text cannot stand for."""
    consts = [(name, _text(value)) for name, value in special.consts]
    parts = _parts(source)
    if parts is None or any(text is None for _, text in consts):
        return None
    knobs = [
        str(special.isa),
        special.schedule.row,
        special.wide,
        special.check,
        special.coarsen,
        special.strided,
        special.words,
    ]
    data = json.dumps([compiler_hash(), parts, consts, knobs])
    return hashlib.sha256(data.encode()).hexdigest()


def _tree(source: Source) -> str:
    tree = source.tree
    if isinstance(tree, ast.FunctionDef):
        return f"{tree.name}{_dump(tree.args)}{_dump(tree.body)}"
    return _dump(tree)


def _dump(node: Any) -> str:
    """A syntax tree as text, the same under every Python: `ast.dump` shows other empty fields from 3.13 on."""
    if isinstance(node, ast.AST):
        fields = [(n, v) for n, v in ast.iter_fields(node) if v is not None and v != []]
        return f"{type(node).__name__}({','.join([f'{n}={_dump(v)}' for n, v in fields])})"
    return f"[{','.join([_dump(x) for x in node])}]" if isinstance(node, list) else repr(node)


def _text(value: Any) -> str | None:
    """A text that stands for a value, the same in every process."""
    if type(value) in _SIMPLE:
        found = f"{type(value).__name__}:{value!r}"
        return found if len(found) <= _LONGEST else None
    if isinstance(value, (tuple, frozenset)) or type(value) in (list, dict):
        parts = [_text(v) for v in (itertools.chain(*value.items()) if isinstance(value, dict) else value)]
        texts = [p for p in parts if p is not None]
        whole = len(texts) == len(parts)
        return f"{type(value).__name__}{sorted(texts) if isinstance(value, frozenset) else texts}" if whole else None
    if isinstance(value, (types.ModuleType, TypeVar)):  # a variable stands in annotations alone
        return f"{type(value).__name__}:{value.__name__}"
    if isinstance(value, (surface.ScalarType, surface.ArrayType, surface.Function, surface.Cast)):
        return f"qpu:{value!r}"
    function = getattr(value, "__qpu_function__", value)
    if isinstance(function, types.FunctionType):
        if function.__module__ == surface.__name__:
            return f"qpu:{function.__name__}"
        try:
            defaults = f"{function.__defaults__!r:.1000}{function.__kwdefaults__!r:.1000}"
            return f"function:{_tree(Source.of(function))}{defaults}"
        except Exception:
            return None
    if isinstance(value, (type, types.BuiltinFunctionType)):
        return f"builtin:{value.__module__}.{value.__qualname__}"
    if type(value).__module__ == "numpy" and type(value).__name__ not in ("ndarray",) and hasattr(value, "dtype"):
        return f"{type(value).__name__}:{value!r}"
    return None


# -- entries


class _Places:
    """Source places as numbers: which function of the kernel's, and which node of its tree."""

    def __init__(self, source: Source | None) -> None:
        sources = {} if source is None else {id(source.fn): source}
        for reached in () if source is None else source.reached:
            sources.setdefault(id(reached.by.fn), reached.by)
        self.sources = list(sources.values())
        self.nodes = [[n for n in s.nodes if hasattr(n, "lineno")] for s in self.sources]

    def numbers(self) -> dict[tuple[str, int, int | None], tuple[int, int]]:
        """The number of each place."""
        found: dict[tuple[str, int, int | None], tuple[int, int]] = {}
        for s, nodes in enumerate(self.nodes):
            for n in range(len(nodes)):
                loc = self.at(s, n)
                found.setdefault((loc.file, loc.line, loc.column), (s, n))
        return found

    def at(self, s: int, n: int) -> Loc:
        """The place of a number. Raises: IndexError."""
        if s < 0 or n < 0:
            raise IndexError
        source = self.sources[s]
        node: Any = self.nodes[s][n]
        return Loc(source.file, node.lineno + source.first - 1, node.col_offset + source.indent + 1)


def pack(compiled: Compiled, source: Source | None) -> bytes:
    """The body of an entry. source: None for a kernel that has none."""
    numbers = _Places(source).numbers()

    def number(loc: Loc | None) -> tuple[int, int] | None:
        return None if loc is None else numbers.get((loc.file, loc.line, loc.column))

    known: dict[Any, int] = {}
    at = []
    for i in range(len(compiled.program)):
        n = number(compiled.program.loc(i))
        at.append(-1 if n is None else known.setdefault(n, len(known)))
    header = {
        "name": compiled.name,
        "isa": str(compiled.isa),
        "uniforms": [list(u) for u in compiled.uniforms],
        "threads": compiled.threads,
        "scratch": compiled.scratch,
        "rows": compiled.rows,
        "coarsen": compiled.coarsen,
        "team": compiled.team,
        "resident": compiled.resident,
        "shared": compiled.shared,
        "extent": compiled.extent,
        "march": compiled.march,
        "accesses": [[a.row(), number(a.loc)] for a in compiled.accesses],
        "notes": [[n.rule, n.message, number(n.loc), n.help] for n in compiled.notes],
        "places": list(known),
        "at": at,
        "labels": compiled.program.labels,
    }
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + compiled.program.data


def unpack(body: bytes, source: Source | None, isa: Isa, remake: Callable[[], Compiled]) -> Compiled:
    """The compiled kernel of an entry. Raises: whatever a damaged one leads to."""
    head, _, words = body.partition(b"\n")
    h: Mapping[str, Any] = json.loads(head)
    places = _Places(source)

    def loc(number: Sequence[int] | None) -> Loc | None:
        return None if number is None else places.at(*number)

    if len(words) % 8 or not words or h["isa"] != isa or len(h["at"]) != len(words) // 8:
        raise ValueError("damaged")
    known = [loc(n) for n in h["places"]]
    code = [int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8)]
    labels = {str(name): int(at) for name, at in h["labels"].items()}
    if not all(0 <= at <= len(code) for at in labels.values()):
        raise ValueError("damaged")
    accesses = [Access.of(row, loc(number)) for row, number in h["accesses"]]
    extent = h["extent"]
    evaluator(extent or [])
    return Compiled(
        name=str(h["name"]),
        isa=isa,
        program=Program(isa, tuple(code), labels, [None if n < 0 else known[n] for n in h["at"]]),
        uniforms=[(str(kind), what) for kind, what in h["uniforms"]],
        threads=int(h["threads"]),
        scratch=int(h["scratch"]),
        rows=int(h["rows"]),
        coarsen=int(h["coarsen"]),
        team=bool(h["team"]),
        resident=bool(h["resident"]),
        shared=int(h["shared"]),
        accesses=accesses,
        extent=extent,
        march=bool(h["march"]),
        notes=[Diagnostic(str(r), str(m), Severity.INFO, loc(n), help=t) for r, m, n, t in h["notes"]],
        made=None,
        remake=remake,
    )


def remember(entries: Mapping[str, bytes]) -> None:
    """Use these entries before those on disk."""
    _loaded.update(entries)


def load(key: str, source: Source, team: bool, special: Special) -> Compiled | None:
    """What a loaded file or the cache on disk has; None for nothing, or damage."""
    return load_made(key, source, special.isa, lambda: specialise(source, team, special))


def load_made(key: str, source: Source | None, isa: Isa, remake: Callable[[], Compiled]) -> Compiled | None:
    """As `load`; remake: compiles it again where a report wants more than an entry has."""
    body = _loaded.get(key)
    if body is None:
        where = directory()
        body = None if where is None else _files(where).load(key)
    if body is None:
        return None
    try:
        return unpack(body, source, isa, remake)
    except Exception:  # damaged, and sealed: by another version, or on purpose
        return None


def save(key: str, compiled: Compiled, source: Source | None) -> None:
    """Keep a compiled kernel on disk, where that is possible."""
    where = directory()
    if where is not None:
        _files(where).store(key, pack(compiled, source))


# -- files


def file_of(entries: Mapping[str, bytes]) -> bytes:
    """Entries by key as one file."""
    index = [[key, len(body)] for key, body in entries.items()]
    rest = json.dumps(index).encode() + b"\n" + b"".join(entries.values())
    return _MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def load_file(path: str | Path) -> int:
    """Use the compiled kernels of a file that `qpu build` made, instead of compiling them; how many it has.

    Kernels that are not in it, or that have changed, are compiled as ever. Raises: UsageError for a file that is not
    there, damaged, or something else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", help="make the file with qpu build") from None
    seal, _, rest = data.removeprefix(_MAGIC).partition(b"\n")
    if not data.startswith(_MAGIC) or seal != hashlib.sha256(rest).hexdigest().encode():
        raise UsageError(f"{path} is not a whole file of compiled kernels", help="make it again with `qpu build`")
    head, _, bodies = rest.partition(b"\n")
    at = 0
    index: Iterable[tuple[str, int]] = json.loads(head)
    found = list(index)
    for key, size in found:
        _loaded[key] = bodies[at : at + size]
        at += size
    return len(found)


def entries_of(kernels: Iterable[Any], isas: Sequence[Isa], say: Callable[[str], None]) -> dict[str, bytes]:
    """Entries of kernels for instruction sets, each with the defaults of its constants. Raises: CompileError."""
    found: dict[str, bytes] = {}
    for k in kernels:
        open_ = [p.name for p in k.parameters if p.kind == "const" and not p.has_default]
        if open_:
            say(f"{k.fn.__name__}: left out, because the Const parameter {open_[0]!r} has no default")
            continue
        for isa in isas:
            special = k.special(isa)
            key = key_of(k.source, special)
            if key is None:
                say(f"{k.fn.__name__}: it reaches an object that cannot be kept in a file")
                break
            compiled = k.made(special)
            found[key] = pack(compiled, k.source)
            say(f"{k.fn.__name__} for {isa}: {counted(len(compiled.program), 'instruction')}")
    return found
