"""Tests of the hardware tier itself, with an emulated board instead of a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HUNG_S

ROOT = Path(__file__).parents[2]

OUTCOMES = """
import os, signal, time
import pytest

pytestmark = pytest.mark.hardware

def test_good(record_figure):
    print("seen", os.getpid())
    record_figure("speed", 2.5, "Gflop/s", size=3)

def test_bad():
    assert 1 == 2, "as it should"

def test_left_out():
    pytest.skip("not on this board")

def test_hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN) if HARD else None
    time.sleep(2000)

def test_dies():
    os.kill(os.getpid(), signal.SIGSEGV)

def test_leaves():
    os._exit(7)

def test_fails_at_the_end(request):
    request.addfinalizer(lambda: 1 / 0)

def test_last():
    pass
"""


def tier(where: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "hardware", "-q", "-rs", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        timeout=HUNG_S,
        check=False,
    )


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    """A directory with tests that end in every possible way."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.hw.plugin"]\n')
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = hardware: here\n")
    (tmp_path / "test_outcomes.py").write_text(OUTCOMES.replace("HARD", "False"))
    return tmp_path


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["test"].split("::")[1]: row for row in report["tests"]}


def test_every_way_to_end(outcomes: Path) -> None:
    done = tier(outcomes, "--hardware-device", "pi4", "--hardware-report", "out.json", "-k", "not hangs")
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((outcomes / "out.json").read_text())
    rows = by_name(report)
    got = {name.removeprefix("test_"): row["outcome"] for name, row in rows.items()}
    assert got == {
        "good": "passed",
        "bad": "failed",
        "left_out": "skipped",
        "dies": "failed",
        "leaves": "failed",
        "fails_at_the_end": "failed",
        "last": "passed",
    }
    assert report["counts"] == {"passed": 2, "failed": 4, "skipped": 1}
    assert "as it should" in rows["test_bad"]["message"]
    assert "not on this board" in rows["test_left_out"]["message"]
    assert "signal 11" in rows["test_dies"]["message"]
    assert "status 7" in rows["test_leaves"]["message"]
    assert "ZeroDivisionError" in rows["test_fails_at_the_end"]["message"]
    figure = report["figures"][0]
    assert figure.pop("test").endswith("::test_good")
    assert figure == {"name": "speed", "value": 2.5, "unit": "Gflop/s", "size": 3}
    # who it was
    assert report["identity"]["board"]["soc"] == "BCM2711" and report["identity"]["device"]["isa"] == "v3d42"
    assert report["identity"]["device"]["emulated"] is True
    assert report["identity"]["firmware"]["build"] and report["identity"]["doctor"]
    assert done.stdout.count("Raspberry Pi 4") >= 2  # before and after
    assert done.stdout.count("EMULATED") >= 2
    for words in ("firmware build", "Linux ", "QPUs", "speed", "report: out.json"):
        assert words in done.stdout, words


def test_a_test_that_hangs_is_stopped(outcomes: Path) -> None:
    options = ("--hardware-device", "pi4", "--hardware-timeout", "2", "--hardware-report", "out.json", "-k", "hangs")
    done = tier(outcomes, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    row = by_name(json.loads((outcomes / "out.json").read_text()))["test_hangs"]
    assert row["outcome"] == "failed" and "did not end within 2 s" in row["message"]
    assert 2 <= row["seconds"] < HUNG_S


def test_without_a_board_tests_are_skipped_with_the_reason(outcomes: Path) -> None:
    empty = outcomes / "root"
    empty.mkdir()
    done = tier(outcomes, "--hardware-report", "out.json", QPU_SYSROOT=str(empty))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 skipped" in done.stdout and "no real board: no usable GPU" in done.stdout
    assert "qpu doctor" in done.stdout
    report = json.loads((outcomes / "out.json").read_text())
    assert report["counts"] == {"passed": 0, "failed": 0, "skipped": 8}
    assert "no usable GPU" in report["identity"]["unusable"]
    assert report["identity"]["device"] is None or report["identity"]["device"]["emulated"]


@pytest.mark.soak  # waits for the grace period
def test_a_test_that_ignores_sigterm_is_killed(outcomes: Path) -> None:
    (outcomes / "test_outcomes.py").write_text(OUTCOMES.replace("HARD", "True"))
    done = tier(outcomes, "--hardware-device", "pi5", "--hardware-timeout", "90", "-k", "hangs or last")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "did not end within 90 s" in done.stdout


def test_the_bodies_run_through_the_tier(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = tier(
        ROOT,
        "tests/hw/test_device.py",
        "--hardware-device",
        "pi3",
        "--hardware-report",
        str(report),
        "-k",
        "launches_run_in_order or say",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads(report.read_text())
    assert data["counts"] == {"passed": 2, "failed": 0, "skipped": 0}
    assert all("[hardware]" in row["test"] for row in data["tests"])
    assert [f["name"] for f in data["figures"]] == ["launch"]
    assert data["identity"]["firmware"]["clocks_hz"]["V3D"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--hardware-timeout", "0"), "positive"),
        (("--hardware-report", "no/such/place/out.json"), "no directory"),
    ],
)
def test_wrong_options_are_refused(outcomes: Path, arguments: tuple[str, ...], message: str) -> None:
    done = tier(outcomes, *arguments)
    assert done.returncode == 4 and message in done.stderr
