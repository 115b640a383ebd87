"""Tests of programs that never end or run past their end, on every emulated board; the device stays usable."""

from __future__ import annotations

import pytest

import qpu

BOARDS = ("pi3", "pi4", "pi5")
ENDLESS = {
    "pi3": "mov r0, 3\n:again\nsub.setf r1, r0, 0\nbrr.anynz -, :again\nnop\nnop\nnop\nnop; thrend\nnop\nnop\n",
    "pi4": "eidx rf5 ; nop\nagain: sub.pushz rf6, rf5, 0 ; nop\nb.anyna again\nnop\nnop\nnop\n",
}
ENDLESS["pi5"] = ENDLESS["pi4"]
# no end, and an end without its slots
NO_END = {
    "pi3": ("mov r0, 1\n", "mov interrupt, 1\nnop; thrend\n"),
    "pi4": ("or rf1, rf1, rf1 ; nop\n",),
    "pi5": ("mov rf1, 1 ; nop\n", "mov rf1, 1 ; nop\nnop ; nop ; thrsw\nnop\nnop\n"),
}


def trivial(isa: qpu.Isa) -> qpu.Program:
    return qpu.assemble(lambda q: q.end(), isa=isa)


@pytest.mark.parametrize("board", BOARDS)
def test_a_loop_without_end(board: str) -> None:
    """Linux or the firmware stops waiting; the statistics are those of the loop, not of later programs."""
    with qpu.open_device(board) as gpu:
        launch = gpu.submit(qpu.assemble(ENDLESS[board], isa=gpu.isa), [])
        with pytest.raises(qpu.GpuTimeoutError if board == "pi3" else qpu.GpuResetError):
            launch.wait()
        assert launch.stats is not None and launch.stats.branches > 1000
        assert gpu.run(trivial(gpu.isa)).done


@pytest.mark.parametrize("board", BOARDS)
def test_code_without_an_end(board: str) -> None:
    """Execution runs past the program, which is a fault at that instruction."""
    for text in NO_END[board]:
        with qpu.open_device(board) as gpu:
            program = qpu.assemble(text, isa=gpu.isa, check=False)
            with pytest.raises(qpu.EmuFault) as caught:
                gpu.run(program)
            assert caught.value.place.instruction is not None
            assert caught.value.place.instruction >= len(program)
            assert caught.value.place.loc is None  # no line of the program
            assert board != "pi3" or f"ran past the end of the program, which has {len(program)}" in str(caught.value)
            assert gpu.run(trivial(gpu.isa)).done


@pytest.mark.parametrize("isa", ["v3d42", "v3d71"])
def test_the_checker_misses_the_end(isa: str) -> None:
    with pytest.raises(qpu.HazardError, match="no-end-thrsw"):
        qpu.assemble(lambda q: q.nop(), isa=isa)
