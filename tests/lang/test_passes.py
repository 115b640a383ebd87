"""Passes of the compiler checked by execution: one that changes what a kernel does is named. KIR and MIR as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.lang import backend_v3d, backend_vc4, kernel, passes
from qpu.lang.kir import Region, walk
from qpu.lang.mir import Function
from qpu.lang.text import kir_text, mir_text
from tests.lang import kernels as ks
from tests.lang.conftest import Boards
from tests.lang.fuzz import case_of
from tests.lang.parse import kir_of, mir_of

pytestmark = pytest.mark.filterwarnings("ignore::qpu.lang.PerformanceNote")


@pytest.fixture(autouse=True)
def _compile_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_CACHE_DIR", "off")


def other_constant(region: Region) -> None:
    """A constant that is added becomes another one."""
    for v in walk(region):
        if v.op == "const" and v.type == "i" and v.attr == 77:
            v.attr = 78


def other_operation(function: Function) -> None:
    """Additions of floats become differences."""
    for m in function.ops():
        if m.op == "fadd":
            m.op = "fsub"


def shifted_places(colour: dict[int, Any]) -> None:
    """All registers of one kind share a place."""
    first = {place.kind: place for place in colour.values()}
    colour.update({r: first[place.kind] for r, place in colour.items()})


def lost_wait(function: Function) -> None:
    """Results of two loads are taken in the other order, wherever they are."""
    for block in function.blocks:
        pops = [m for m in block.ops if m.role == "pop" and type(m.sig_dst) is int]
        for one, other in zip(pops[::2], pops[1::2], strict=False):
            one.sig_dst, other.sig_dst = other.sig_dst, one.sig_dst


TEXT = """from qpu.lang.surface import *

def broken(k: Grid, x: In[f32], p: In[i32], y: Out[f32]) -> None:
    i = k.index()
    y[i] = x[i] * 3.0 + f32(p[i] ^ 77) + 0.5
"""
BROKEN = [
    ("legalise", backend_v3d, other_constant, "v3d42"),
    ("plan_memory", backend_v3d, other_constant, "v3d71"),
    ("legalise_vc4", backend_vc4, other_constant, "vc4"),
    ("coalesce", backend_v3d, other_operation, "v3d71"),
    ("order", backend_v3d, lost_wait, "v3d42"),
    ("order", backend_vc4, other_operation, "vc4"),
    ("colour_v3d", backend_v3d, shifted_places, "v3d71"),
    ("colour_vc4", backend_vc4, shifted_places, "vc4"),
]


@pytest.mark.parametrize(("name", "module", "fault", "isa"), BROKEN, ids=[f"{b[0]}-{b[3]}" for b in BROKEN])
def test_a_wrong_pass_is_named(
    name: str, module: Any, fault: Callable[[Any], None], isa: str, monkeypatch: pytest.MonkeyPatch, boards: Boards
) -> None:
    """At the launch, before anything runs."""
    gpu, stage = boards.of(isa), {"colour_v3d": "colour", "colour_vc4": "colour"}.get(name, name)
    pass_ = getattr(module, name)

    def wrong(first: Any, *args: Any, **more: Any) -> Any:
        made = pass_(first, *args, **more)
        fault(first if made is None else made)
        return made

    monkeypatch.setenv("QPU_LANG_VERIFY", "1")
    k = qpu.lang.Kernel.from_source(TEXT, "broken", coarsen=1)
    x, p = gpu.array(np.arange(40, dtype=np.float32)), gpu.array(np.arange(40, dtype=np.int32))
    y = gpu.zeros(40)
    k(x, p, y)
    assert np.array_equal(y.numpy(), np.arange(40) * 3 + (np.arange(40) ^ 77) + 0.5)
    before = len(gpu.port.runs)  # type: ignore[attr-defined]  # of an emulated board
    with monkeypatch.context() as patch:
        patch.setattr(module, name, wrong)
        with pytest.raises(passes.PassError, match=f"broken for .*, after {stage}"):
            qpu.lang.Kernel.from_source(TEXT, "broken", coarsen=1)(x, p, gpu.zeros(40))
    assert len(gpu.port.runs) == before  # type: ignore[attr-defined]


@pytest.mark.every_board
def test_launches_are_checked(gpu: qpu.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several vectors, bytes, atomics, teams, views inside a buffer: every interpreter knows them."""
    monkeypatch.setenv("QPU_LANG_VERIFY", "1")
    checked: list[list[str]] = []
    check = passes.check
    monkeypatch.setattr(passes, "check", lambda *args: checked.append(check(*args)))
    x, y = gpu.array(np.arange(100, dtype=np.float32)), gpu.array(np.ones(100, np.float32))
    kernel(ks.saxpy.fn)(2.0, x[3:], y.view(12))
    part = gpu.zeros(5)
    ks.dot.on(gpu, workers=5)(x, y, part)
    bins, narrow = gpu.zeros(16, np.int32), gpu.zeros(40, np.uint8)
    ks.histogram(gpu.array(np.arange(40, dtype=np.int32)), bins)
    ks.bytes_up(gpu.array(np.arange(40, dtype=np.uint8)), narrow)
    assert len(checked) == 4 and all("select" in names and "colour" in names for names in checked)
    assert bins.numpy().sum() == 40 and np.array_equal(narrow.numpy(), 2 * np.arange(40) + 1)


@pytest.mark.parametrize("isa", list(qpu.Isa))
def test_text_is_parsed_back(isa: qpu.Isa) -> None:
    """The same text again, and the same results where it is executed."""
    for seed in (2, 5, 9):
        case = case_of(seed, small=True)
        compiled, made = passes.stages(lambda case=case: case.kernel.compile(isa))
        again = []
        for stage in made:
            if isinstance(stage.made, Region):
                text = kir_text(stage.made)
                copy: Any = kir_of(text)
                assert kir_text(copy) == text
            else:
                text = mir_text(stage.made)
                copy = mir_of(text)
                assert mir_text(copy) == text
            again.append(passes.Stage(stage.name, copy, stage.colour))
        assert len(again) >= 8
        case.checked(compiled, again)


def test_the_form_of_the_text() -> None:
    _, made = passes.stages(lambda: kernel(coarsen=1)(ks.saxpy.fn).compile("v3d71"))
    lines = kir_text(made[0].made).splitlines()  # type: ignore[arg-type]  # KIR comes first
    assert any(" = load " in line and "!Access(array=0, offset=0, dtype='f32'" in line for line in lines)
    assert any(line.lstrip().startswith("yield") and " while %" in line for line in lines)
    lines = mir_text(made[-1].made).splitlines()  # type: ignore[arg-type]
    assert lines[0].startswith("registers ") and lines[1] == "entry0: depth=0 pending=0"
    assert any(line.startswith("  fmul r") for line in lines)
