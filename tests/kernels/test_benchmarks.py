"""Tests of the benchmarks of the kernels and of the probes, at small sizes: they run, and every line has its fields."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HUNG_S

ROOT = Path(__file__).parent.parent.parent
FIELDS = {"name", "isa", "device", "emulated", "value", "unit", "min", "max", "runs"}


def rows(name: str, *arguments: str, engine: str | None = "reference") -> list[dict[str, Any]]:
    """The JSON lines of a benchmark, without the one about the machine."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | ({"QPU_EMU_ENGINE": engine} if engine else {})
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", "--runs", "1", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HUNG_S)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["name"] == "machine"
    for row in found[1:]:
        assert set(row) >= FIELDS and row["emulated"] is True
    return found[1:]


@pytest.mark.parametrize(("board", "isa"), [("pi3", "vc4"), ("pi4", "v3d42"), ("pi5", "v3d71")])
def test_kernels(board: str, isa: str) -> None:
    found = rows("kernels", "--part", "programs", "--device", board, "--size", "24", "--n", "700")
    assert {row["isa"] for row in found} == {isa}
    by_name = {(row["name"], row.get("kernel"), row.get("counted")): row["value"] for row in found}
    for kernel, least in (("uniform", 0.95), ("rotate", 0.75)):
        shares = [by_name["sgemm inner loop share", kernel, how] for how in ("code", "executed")]
        assert shares[0] == shares[1] >= least
        for name in ("instructions", "useful share", "traffic", "time"):
            assert by_name[f"sgemm {name}", kernel, None] > 0
    for name, useful in (("scopy", 8 * 700), ("memset", 4 * 700), ("summation", 4 * 700)):
        assert by_name[f"{name} useful bytes", None, None] == useful
        assert by_name[f"{name} requested bytes", None, None] >= useful
        assert by_name[f"{name} bytes per instruction", None, None] > 0


def test_library() -> None:
    found = rows("kernels", "--device", "pi4", "--function", "blas1.axpy", "--function", "blas2.gemv")
    values = {row["name"]: row for row in found}
    assert set(values) == {f"library {name}{what}" for name in ("blas1.axpy", "blas2.gemv") for what in ("", " bytes")}
    for name in ("blas1.axpy", "blas2.gemv"):
        row = values[f"library {name}"]
        assert row["floor"] <= row["value"] <= row["target"]
    assert values["library blas1.axpy bytes"]["value"] == 12


def test_the_page_of_costs_has_every_function() -> None:
    names = re.findall(r'^    Row\(\s*"([^"]+)"', (ROOT / "benchmarks" / "library.py").read_text(), re.M)
    text = (ROOT / "benchmarks" / "library_families.py").read_text()
    names += re.findall(r'^        (?:of|filtered)\(\s*"([^"]+)"', text, re.M)
    page = (ROOT / "docs" / "reference" / "library-costs.md").read_text()
    assert len(names) > 40 and [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize(("board", "qpus"), [("pi3", 12), ("pi4", 8), ("pi5,slices=3", 12)])
def test_probes(board: str, qpus: int) -> None:
    found = rows("probes", "--device", board, "--largest", "16", engine=None)
    assert all(row["worth"].startswith("nothing") for row in found)
    values = {row["name"]: row["value"] for row in found}
    assert values["QPUs that took part"] == qpus
    assert set(values) >= {
        "uniform stream",
        "restart of the stream and 64 instructions",
        "uniforms again and again",
        "TMU request",
        "TMU bandwidth",
    }


@pytest.mark.parametrize("name", ["assembler", "emulator", "kernels", "overhead", "probes"])
@pytest.mark.parametrize("runs", ["0", "-1", "x"])
def test_runs_are_counted_from_1(name: str, runs: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--runs", runs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert done.returncode == 2 and "whole numbers from 1" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["kernels", "probes"])
def test_unknown_devices_are_one_error_with_help(name: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--json", "--device", "pi9"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown board 'pi9'")
    assert [line.startswith("  help: ") for line in done.stderr.splitlines()] == [False, True]


@pytest.mark.skipif(os.name != "posix", reason="no signals to send")
def test_interrupted_and_unread() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "assembler.py"), "--json"]
    for signalled, status in ((True, 130), (False, 1)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None and child.stderr is not None
            child.stdout.readline()  # the machine: imports are over
            if signalled:
                child.send_signal(signal.SIGINT)
            else:
                child.stdout.close()
            assert child.stderr.read() == ("interrupted\n" if signalled else "")
            assert child.wait(HUNG_S) == status
