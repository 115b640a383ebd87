"""Outcomes of the forty mistakes of a newcomer: the test that sees each, and tests of those that no other file has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.lang import Grid, In, InOut, f32, kernel

ROOT = Path(__file__).parent
HERE = "test_forty_mistakes.py::"
MISTAKES = "test_mistakes.py::"
CASES = "debug/test_cases.py::"

# Number -> (mistake, outcome, the test that sees it).
OUTCOMES: dict[int, tuple[str, str, str]] = {
    1: ("64-bit data", "refused with the cast; lists are i32, f32", HERE + "test_data_of_64_bits"),
    2: ("8 elements, 16 lanes", "fault with the lane", CASES + "test_a_buffer_for_half_of_the_lanes"),
    3: ("a uniform too few", "uniform 4 of 3, and the line", CASES + "test_too_few_uniforms"),
    4: ("a uniform too many", "warning with the number", CASES + "test_too_many_uniforms"),
    5: ("3 for a float", "converted", MISTAKES + "test_declared_uniforms_are_converted_and_checked"),
    6: ("rows on V3D", "refused", MISTAKES + "test_rows_of_uniforms_on_v3d"),
    7: ("register in `if`", "error at the line", MISTAKES + "test_a_register_in_a_condition_of_python"),
    8: ("undefined register", "sanitizer", "debug/test_sanitizer.py::test_faults_of_v3d"),
    9: ("V3D branch without slots", "loops fill them; why no finding: docs", HERE + "test_slots_of_loops_are_filled"),
    10: ("end in the slots of a branch", "error H32", HERE + "test_vc4_programs_and_their_ends"),
    11: ("end before a store is done", "warning H33", HERE + "test_vc4_programs_and_their_ends"),
    12: ("VC4 without an end", "warning H31; fault", HERE + "test_vc4_programs_and_their_ends"),
    13: ("V3D without an end", "help: q.end()", HERE + "test_v3d_programs_and_their_ends"),
    14: ("end in the slots, V3D", "both places", HERE + "test_v3d_programs_and_their_ends"),
    15: ("thrsw with one slot", "help", HERE + "test_v3d_programs_and_their_ends"),
    16: ("rf40 with 4 threads", "help", HERE + "test_registers_of_two_threads"),
    17: ("names of other chips", "what is here", MISTAKES + "test_a_name_of_another_chip_or_library"),
    18: ("names of other libraries", "ours", MISTAKES + "test_calls_of_other_libraries"),
    19: ("arithmetic on a Buffer", "what to write", MISTAKES + "test_arithmetic_on_a_buffer"),
    20: ("pickle", "works", MISTAKES + "test_a_program_is_data"),
    21: ("endless loop", "loop, condition", "test_reported_cases.py::test_the_loop_that_never_ends_is_named"),
    22: ("over a second", "the cause", MISTAKES + "test_a_program_that_runs_too_long_names_its_one_cause_and_its_loop"),
    23: ("long traceback", "the user's frames", MISTAKES + "test_a_fault_shows_the_frames_of_the_user"),
    24: ("QPU_DEVICE empty", "as unset", MISTAKES + "test_the_environment_variable_is_named"),
    25: ("error of sgemm", "share of the bound", HERE + "test_the_error_of_sgemm_is_a_share_of_its_bound"),
    26: ("a pipe without -", "read", MISTAKES + "test_text_from_a_pipe"),
    27: ("disasm of source", "says so", MISTAKES + "test_source_given_to_the_disassembler"),
    28: ("empty file", "says so, 1", MISTAKES + "test_a_file_without_instructions"),
    29: ("--isa pi5", "works", MISTAKES + "test_a_board_in_place_of_an_instruction_set"),
    30: ("dump of a driver", "read", "test_formats.py::test_dumps_of_drivers_are_programs"),
    31: ("C array", "read", "test_formats.py::test_c_arrays_are_programs"),
    32: ("// as comment", "names #", MISTAKES + "test_comments_of_other_languages"),
    33: ("asm --check", "as the API", MISTAKES + "test_findings_have_their_source_lines"),
    34: ("untried forms", "warning", "v3d/test_cases.py::test_conversions_to_half_a_register"),
    35: ("VC4: unaligned TMU address", "its word, as documented",
         CASES + "test_an_unaligned_address_on_videocore_iv_is_that_of_its_word"),
    36: ("named node elsewhere", "the right one", MISTAKES + "test_a_named_node_that_is_elsewhere"),
    37: ("out of memory, Pi 0-3", "size, setting", MISTAKES + "test_out_of_memory_on_old_boards"),
    38: ("deadlines of hypothesis", "documented", HERE + "test_deadlines_are_documented"),
    39: ("--strict, warnings", "no fault", MISTAKES + "test_what_a_strict_run_only_warns_of_is_not_called_a_fault"),
    40: ("noise after a fault", "none", MISTAKES + "test_a_fault_shows_the_frames_of_the_user"),
}  # fmt: skip


def test_every_mistake_has_its_test() -> None:
    assert list(OUTCOMES) == list(range(1, 41))
    for _, _, where in OUTCOMES.values():
        file, _, name = where.partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), where


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(qpu.QpuError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@kernel
def add_one(k: Grid, x: In[f32], y: InOut[f32]) -> None:
    i = k.index(y.size)
    y[i] = x[i] + 1.0


def test_data_of_64_bits() -> None:
    program = qpu.assemble(lambda q: q.end(), isa="v3d71")
    with qpu.open_device("pi5") as gpu:
        refused(lambda: gpu.array(np.arange(16.0)), "float64", "write x.astype(np.float32), or dtype=np.float64")
        refused(lambda: gpu.array(np.arange(16)), "int64", "write x.astype(np.int32)")
        refused(lambda: gpu.run(program, np.arange(4.0)), "float64", "write x.astype(np.float32)")
        assert gpu.array([1, 2]).dtype == np.int32 and gpu.array([1.5]).dtype == np.float32
        wide = gpu.array(np.arange(16.0), dtype=np.float64)
        refused(lambda: add_one(wide, gpu.zeros(16)), "float64")


def test_vc4_programs_and_their_ends() -> None:
    def in_the_slots(q: Any) -> None:
        with q.loop() as loop:
            q.sub(q.r0, q.r0, 1, push="z")
            q.b(loop.start, cond="anynz")
            q.end()

    def without_a_wait(q: Any) -> None:
        q.setup_vpm_write()
        q.mov(q.vpm, 1)
        q.setup_dma_store(nrows=1)
        q.start_dma_store(q.uniform)
        q.end()

    refused(lambda: qpu.assemble(in_the_slots, isa="vc4"), "H32 thrend-slot", "help: put 2 more")
    found = [f for f in qpu.assemble(without_a_wait, isa="vc4").check() if f.rule == "H33"]
    assert len(found) == 1 and "q.wait_dma_store()" in found[0].help
    endless = qpu.assemble(lambda q: q.nop(), isa="vc4")
    assert [f.rule for f in endless.check()] == ["H31"]
    with qpu.open_device("pi3") as gpu:
        refused(lambda: gpu.run(endless, []), "ran past the end of the program, which has 1 instruction", "q.end()")


def test_v3d_programs_and_their_ends() -> None:
    def in_the_slots(q: Any) -> None:
        q.b(q.label("start"), cond="anya")
        q.end()

    def one_slot(q: Any) -> None:
        q.nop(sig=q.thrsw)
        q.nop()
        q.end()

    refused(lambda: qpu.assemble(lambda q: q.nop(), isa="v3d71"), "no-end-thrsw", "help: end the program: `q.end()`")
    refused(lambda: qpu.assemble(in_the_slots, isa="v3d71"), "branch-slot", "help: put 3 more instructions between")
    refused(lambda: qpu.assemble(one_slot, isa="v3d71"), "thrsw-close", "help: put two instructions after a switch")


def test_slots_of_loops_are_filled() -> None:
    def count(q: Any) -> None:
        q.mov(q.rf[1], 3)
        with q.loop() as loop:
            q.sub(q.rf[1], q.rf[1], 1, push="pushz")
            q.b(loop.start, cond="anyna")
        q.mov(q.rf[2], 1)
        q.end()

    for isa in ("v3d42", "v3d71"):
        lines = [line.split(" ;")[0].split() for line in qpu.assemble(count, isa=isa).text.splitlines()]
        at = lines.index(["b.anyna", "loop0"])
        assert lines[at + 1 : at + 5] == [["nop"]] * 3 + [["loop0_end:"]], lines
    page = (ROOT.parent / "docs" / "hazard-errors.md").read_text()
    assert "delay slots of a V3D branch" in page and "not a multiple of 4" in page


def test_registers_of_two_threads() -> None:
    def high(q: Any) -> None:
        q.mov(q.rf[40], 1)
        q.end()

    program = qpu.assemble(high, isa="v3d71")
    with qpu.open_device("pi5") as gpu:
        refused(
            lambda: gpu.run(program, []),
            "rf40 does not exist",
            "launch with two threads per QPU: v3d.Dispatch(threads=2)",
        )
        assert gpu.run(program, [], qpu.v3d.Dispatch(threads=2)).done


def test_the_error_of_sgemm_is_a_share_of_its_bound() -> None:
    text = (ROOT.parent / "examples" / "sgemm.py").read_text()
    assert "of what rounding of float32 sums may cost" in text


def test_deadlines_are_documented() -> None:
    assert "deadline=None" in (ROOT.parent / "docs" / "emulated-boards.md").read_text()
