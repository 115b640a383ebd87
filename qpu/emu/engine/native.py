"""The native code of translated programs: optimisation, linking, and use of the cache (`qpu.emu.engine.code_cache`).

The key of a cache entry is a hash of everything on which the code depends: program words, instruction set, the sources
of the package that generate code, host CPU and features.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import hashlib
import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from llvmlite import binding

from qpu.core import collector
from qpu.core.deferred_signals import critical
from qpu.emu.engine import code_cache, host_limit, progress
from qpu.emu.engine.code_cache import cache_directory
from qpu.emu.engine.host_cpu import host

__all__ = [
    "FULL", "QUICK", "Improvement", "Interrupted", "Library", "NativeCode", "NativeProgram", "Translate",
    "build", "checkpoint", "recall", "remember", "sources_digest",
]  # fmt: skip

_GENERATORS = "core", "vc4", "v3d", "emu/engine", "emu/vc4", "emu/v3d"  # folders of the package
SEAL = "meta_digest"  # constant in the object code: the digest of the metadata that belongs to the code
QUICK, FULL = 0, 2  # optimisation levels of programs
EVERY = 16  # instructions of a translation between checks for signals
POLL_S = 0.05  # seconds of host time between checks for signals while LLVM works
Translate: TypeAlias = Callable[[], tuple[object, dict[str, Any]]]
"""Returns IR with a function ``run`` (its `str`), and metadata for JSON."""

_LOCK = threading.Lock()
_CHECKPOINTS = count()
_ABANDONED: list[threading.Thread] = []  # compilations whose run was interrupted


class Interrupted(Exception):
    """A translation that was cancelled by a signal or the host limit. The engine continues and may try again later."""


def _machine(level: int) -> Any:
    h = host()
    target = binding.Target.from_default_triple()
    # The host's widest vectors: one register holds all 16 lanes.
    return target.create_target_machine(cpu=h.cpu, features=h.features, opt=level, jit=True)


@dataclass(slots=True)
class NativeCode:
    """Callable machine code.

    meta: the metadata of the translator. keep: objects that must outlive the code. identity, text: what the code was
    made from; text is empty if the code comes from the cache.
    """

    address: int
    meta: dict[str, Any]
    from_cache: bool
    translate_s: float
    keep: list[Any] = field(default_factory=list)
    level: int = 0
    identity: bytes = b""
    text: str = field(default="", repr=False)

    def function(self, result: Any, *arguments: Any, name: str = "run") -> Callable[..., Any]:
        """A function of the code, through ctypes. Calls release the GIL."""
        address = self.address if name == "run" else self.keep[0].get_function_address(name)
        made: Callable[..., Any] = ctypes.CFUNCTYPE(result, *arguments)(address)
        return made


@cache
def sources_digest() -> str:
    """A digest of the sources on which generated code depends, so that no change of them finds old code."""
    root = Path(__file__).parents[2]
    digest = hashlib.blake2b(digest_size=20)
    for folder in _GENERATORS:
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _key(identity: bytes, level: int) -> str:
    digest = hashlib.blake2b(digest_size=20)
    h = host()
    for part in (
        sources_digest(),
        h.cpu,
        h.features,
        str(h.plain),
        binding.__name__,
        ".".join(map(str, binding.llvm_version_info)),
    ):
        digest.update(part.encode() + b"\0")
    digest.update(identity + bytes([level]))
    return digest.hexdigest()


class Library:
    """Functions that programs call and that do not depend on the program: compiled once for a host, linked to each.

    identity: everything on which the functions depend, except the host. make: returns the IR (its `str`), in which only
    the functions for the programs are external. It should need no optimisation before code generation.
    """

    def __init__(self, identity: bytes, make: Callable[[], object]) -> None:
        self.identity = identity
        self._make = make
        self._codes: dict[str, bytes] = {}  # by key: the host can be limited at any time

    @property
    def code(self) -> bytes:
        """The object code for the host, from the cache or compiled now."""
        key = _key(self.identity, FULL)
        code = self._codes.get(key)
        if code is None:
            directory = cache_directory()
            found = None if directory is None else code_cache.load(directory, key)
            if found is None:
                code = _object(str(self._make()), FULL, passes=False)
                if directory is not None:
                    code_cache.store(directory, key, _json({}), code)
            else:
                code = found[1]
            self._codes[key] = code
        return code


def build(
    identity: bytes,
    translate: Translate,
    *,
    level: int = 1,
    better: int | None = None,
    library: Library | None = None,
) -> NativeCode:
    """The machine code for a translation, from the cache or by calling `translate`.

    identity: everything on which the translation depends, except the host. level: optimisation, 0..3. better: a level
    that is preferred if the cache has it. library: declared functions that the translation calls.
    Raises: RuntimeError in threads that outlive the interpreter; Interrupted.
    """
    start = time.perf_counter()
    with _LOCK:
        if Improvement.ended and threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the interpreter is ending: launches that nobody waits for are not translated any more")
        for wanted in (level,) if better is None else (better, level):
            found = _load(identity, wanted, library)
            if found is not None:
                found.identity = identity
                found.translate_s = time.perf_counter() - start
                return found
        with collector.paused():
            source, meta = translate()
            made = _interruptible(lambda: _compile(identity, str(source), meta, level, library))
        made.translate_s = time.perf_counter() - start
        return made


def checkpoint() -> None:
    """Called between the instructions of a translation; shows progress on a terminal.

    Raises: Interrupted, when a signal is pending or the host limit is exceeded.
    """
    if next(_CHECKPOINTS) % EVERY:
        return
    progress.translating()
    with critical() as section:
        if section.pending or host_limit.exceeded():
            raise Interrupted("the translation was interrupted")


def _interruptible(work: Callable[[], NativeCode]) -> NativeCode:
    """Call `work` on another thread, so that a signal or the host limit does not wait for LLVM.

    Raises: Interrupted. The other thread still finishes its work, for the cache, and the process does not end before.
    """
    done = threading.Event()
    results: list[NativeCode] = []
    errors: list[BaseException] = []

    def make() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    with critical() as section:
        worker = threading.Thread(target=make, name="qpu-compiler", daemon=False)
        worker.start()
        while not done.wait(POLL_S):
            progress.translating()
            if section.pending or host_limit.exceeded():
                _ABANDONED[:] = [thread for thread in _ABANDONED if thread.is_alive()] + [worker]
                raise Interrupted("the translation was interrupted")
    if errors:
        raise errors[0]
    return results[0]


def _link(code: bytes, level: int, library: Library | None) -> Any:
    """An LLVM execution engine that holds the code. Raises: RuntimeError."""
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine(level))
    for part in (code,) if library is None else (library.code, code):
        engine.add_object_file(binding.ObjectFileRef.from_data(part))
    engine.finalize_object()
    return engine


def _load(identity: bytes, level: int, library: Library | None) -> NativeCode | None:
    directory = cache_directory()
    found = None if directory is None else code_cache.load(directory, _key(identity, level))
    if found is None:
        return None
    meta, code = found
    try:
        engine = _link(code, level, library)
        address, seal = engine.get_function_address("run"), engine.get_global_value_address(SEAL)
    except RuntimeError:
        return None  # replaced by the translation that follows
    if not address or not seal or ctypes.string_at(seal, 16) != code_cache.digest(_json(meta).encode()):
        return None
    return NativeCode(address, meta, True, 0.0, [engine], level)


def remember(identity: bytes, note: dict[str, Any]) -> None:
    """Keep a note about a program in the cache, for later processes."""
    directory = cache_directory()
    if directory is not None:
        code_cache.store(directory, _key(identity, QUICK), _json(note), b"")


def recall(identity: bytes) -> dict[str, Any] | None:
    """The note that an earlier process kept under this identity; None when there is none."""
    directory = cache_directory()
    return None if directory is None else code_cache.load_note(directory, _key(identity, QUICK))


def _json(meta: dict[str, Any]) -> str:
    return json.dumps(meta, separators=(",", ":"))


def _object(text: str, level: int, *, passes: bool = True) -> bytes:
    """The object code of a module. passes: optimise the module before code generation."""
    machine = _machine(level)
    module = binding.parse_assembly(text)
    options = binding.create_pipeline_tuning_options(speed_level=level if passes else QUICK)
    options.loop_vectorization = options.slp_vectorization = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    return code


def _compile(
    identity: bytes, text: str, meta: dict[str, Any], level: int, library: Library | None = None
) -> NativeCode:
    head = _json(meta)
    seal = "".join(f"\\{byte:02X}" for byte in code_cache.digest(head.encode()))
    code = _object(f'{text}\n@{SEAL} = constant [16 x i8] c"{seal}"\n', level)
    engine = _link(code, level, library)
    directory = cache_directory()
    if directory is not None:
        code_cache.store(directory, _key(identity, level), head, code)
    return NativeCode(engine.get_function_address("run"), meta, False, 0.0, [engine], level, identity, text)


class Improvement:
    """A compilation at a better level, on a host thread, while the program continues with its present code.

    translate: makes the IR again if `code` comes from the cache.
    """

    _running: ClassVar[Improvement | None] = None
    ended: ClassVar[bool] = False

    def __init__(self, code: NativeCode, translate: Translate, level: int, library: Library | None = None) -> None:
        self._old = code
        self._translate = translate
        self._level = level
        self._library = library
        self._code: NativeCode | None = None
        # Never a daemon thread: the process must not end inside LLVM.
        self._thread = threading.Thread(target=self._make, name="qpu-translator", daemon=False)
        Improvement._running = self
        self._thread.start()

    @classmethod
    def of(
        cls, code: NativeCode, translate: Translate, level: int, library: Library | None = None
    ) -> Improvement | None:
        """Start an improvement; None while other code is being improved."""
        if cls.ended or (cls._running is not None and cls._running.busy):
            return None
        return cls(code, translate, level, library)

    @classmethod
    def end(cls) -> None:
        """Wait for the running improvement, and start no further ones."""
        cls.ended = True
        cls.wait()

    @classmethod
    def wait(cls) -> bool:
        """Wait until no thread compiles: a fork must not happen inside LLVM. Returns: whether one did."""
        threads = [*_ABANDONED, *([] if cls._running is None else [cls._running._thread])]
        busy = any(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join()
        return busy

    def _make(self) -> None:
        old = self._old
        source, meta = (old.text, old.meta) if old.text else self._translate()
        if json.dumps(meta) != json.dumps(old.meta):
            return  # the new translation numbers its nodes differently: the running program cannot switch to it
        try:
            self._code = _compile(old.identity, str(source), meta, self._level, self._library)
        except RuntimeError:
            return  # the program keeps its present code
        old.text = self._code.text = ""

    @property
    def busy(self) -> bool:
        """Whether the compilation is still running."""
        return self._thread.is_alive()

    def result(self) -> NativeCode | None:
        """The code; None while the compilation runs, or if it failed."""
        return None if self.busy else self._code


class NativeProgram(ABC):
    """A program with machine code, which another host thread improves when the program is executed often.

    size: see HOT. run: the function of the code, bound by `_bind`. hits, misses: translations that were, were not in
    the cache.
    """

    HOT: ClassVar[int]  # instructions after which a program is worth the full level, for each of `size`
    library: Library | None = None

    def __init__(self) -> None:
        self.level = QUICK
        self.translate_s = 0.0
        self.hits = self.misses = 0
        self.executed = 0
        self.size = 1
        self.run: Any = None
        self._code: NativeCode
        self._translate: Translate
        self._improvement: Improvement | None = None
        self._keep: list[NativeCode] = []

    @abstractmethod
    def _bind(self, code: NativeCode) -> None:
        """Take the functions of the code."""

    def _build(self, identity: bytes, translate: Translate) -> dict[str, Any]:
        """Use the code of a translation from now on. Returns: its metadata. Raises: Interrupted, and as `translate`."""
        code = build(identity, translate, level=QUICK, better=FULL, library=self.library)
        self._adopt(code)
        self._translate = translate
        self._improvement = None
        self.translate_s += code.translate_s
        return code.meta

    def _adopt(self, code: NativeCode) -> None:
        self._code = code
        self._keep.append(code)
        self.level = code.level
        self.hits += code.from_cache
        self.misses += not code.from_cache
        self._bind(code)

    @property
    def hot(self) -> bool:
        """Whether the program is executed often enough for a better translation."""
        return self.level != FULL and self.executed >= self.HOT * self.size

    def improve(self) -> None:
        """Start a translation at the full level on another host thread; use the result as soon as it is ready."""
        if self._improvement is None:
            with contextlib.suppress(Interrupted):  # the next call tries again
                self._improvement = Improvement.of(self._code, self._again(), FULL, self.library)
            return
        code = self._improvement.result()
        if code is not None:
            self._adopt(code)

    def _again(self) -> Translate:
        """The function that makes the IR again, on another thread."""
        return self._translate


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=Improvement.wait)


@atexit.register
def _end() -> None:
    """Wait for threads that use LLVM before the interpreter unloads it, and start no further ones."""
    with _LOCK:
        Improvement.end()
