"""Plugin of the hardware tier: every test with the mark `hardware` runs in a process of its own, with a deadline.

`pytest -m hardware` on a Raspberry Pi runs the bodies of tests/hw on its GPU. A test that hangs, crashes, or wedges
the GPU ends as one failed test. The GPU is one, so this tier does not go with ``-n``.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

GRACE_S = 5.0  # between SIGTERM, which gives firmware memory back, and SIGKILL
IDENTITY_TIMEOUT_S = 300.0
KEY = pytest.StashKey["Tier"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the tier."""
    group = parser.getgroup("hardware", "tests on a real Raspberry Pi GPU (-m hardware)")
    group.addoption("--hardware-report", metavar="FILE", help="write identities, outcomes and figures as JSON")
    group.addoption(
        "--hardware-device",
        metavar="NAME",
        default="hardware",
        help="hardware (default) or a node's path; the name of an emulated board tries out the tier itself",
    )
    group.addoption(
        "--hardware-timeout", metavar="SECONDS", type=float, default=300.0, help="deadline of one test (default: 300)"
    )
    group.addoption("--hardware-child", metavar="FILE", help=f"internal: {__name__} runs one test in this process")


def pytest_configure(config: pytest.Config) -> None:
    """Start the tier, or its part in a child."""
    if config.getoption("hardware_child"):
        config.pluginmanager.register(_Child(Path(config.getoption("hardware_child")), config))
        return
    if config.getoption("hardware_timeout") <= 0:
        raise pytest.UsageError("--hardware-timeout takes a positive number of seconds")
    report = config.getoption("hardware_report")
    if report and not Path(report).absolute().parent.is_dir():
        raise pytest.UsageError(f"--hardware-report: there is no directory {Path(report).absolute().parent}")
    config.stash[KEY] = tier = Tier(config)
    config.pluginmanager.register(tier)


@pytest.fixture
def record_figure(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """``record_figure(name, value, unit, **more)``: a benchmark figure for the hardware report."""

    def record(name: str, value: float, unit: str, **more: object) -> None:
        record_property("figure", {"name": name, "value": value, "unit": unit, **more})

    return record


def is_hardware(item: pytest.Item) -> bool:
    """True for a test of this tier."""
    return item.get_closest_marker("hardware") is not None


class _Child:
    """In the process of one test: writes its reports to a file, one JSON object a line."""

    def __init__(self, path: Path, config: pytest.Config) -> None:
        self.path = path
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a phase that has ended."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.path.open("a") as file:
            file.write(json.dumps(data, default=str) + "\n")


class Tier:
    """In the process that the user started: children, the summary, the report."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.device: str = config.getoption("hardware_device")
        self.started = time.time()
        self.rows: dict[str, dict[str, Any]] = {}
        self.figures: list[dict[str, Any]] = []
        self._known: dict[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the board; `unusable` says why it cannot be used, None when it can."""
        if self._known is None:
            self._known = self._identify()
        return self._known

    def _identify(self) -> dict[str, Any]:
        command = [sys.executable, str(Path(__file__).with_name("identity.py")), self.device]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=_environment(), timeout=IDENTITY_TIMEOUT_S, check=False
            )
            found: dict[str, Any] = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return {"unusable": f"asking the board who it is took more than {IDENTITY_TIMEOUT_S:.0f} s"}
        except ValueError:
            return {"unusable": f"asking the board who it is failed: {done.stderr.strip()[-500:]}"}
        return found

    # what the user sees

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """The board, before its tests run."""
        return self.lines() if any(is_hardware(item) for item in items) else []

    def lines(self) -> list[str]:
        """Board, firmware, Linux and GPU as lines of text."""
        found = self.identity
        if "board" not in found:
            return [f"hardware: {found['unusable']}"]
        board, firmware, versions = found["board"], found["firmware"] or {}, found["versions"]
        lines = [
            f"hardware: {board['model']}, {board['soc'] or 'unknown chip'}, revision {board['revision'] or 'unknown'}",
            f"  firmware build {firmware.get('build') or 'unknown'}, Linux {versions['linux'] or 'unknown'}",
            f"  Python {versions['python']}, qpu {versions['qpu']}",
        ]
        if found["unusable"] is not None:
            return [*lines, f"  {found['unusable']}", "  `qpu doctor` tells what to do about it"]
        device = found["device"]
        return [
            *lines,
            f"  GPU {device['isa']}, revision {device['revision'] or 'unknown'}, "
            f"{device['slices']} x {device['qpus_per_slice']} QPUs, {device['adapter']} on {device['node']}"
            + (" -- EMULATED: this run says nothing about a real board" if device["emulated"] else ""),
        ]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The same lines again, with the figures and the path of the report."""
        if not self.rows:
            return
        terminalreporter.section("hardware")
        for line in self.lines():
            terminalreporter.write_line(line)
        for f in self.figures:
            more = " ".join(f"{k}={v}" for k, v in f.items() if k not in ("name", "value", "unit", "test"))
            terminalreporter.write_line(f"  {f['name']:32} {f['value']:12.4g} {f['unit']:8} {more}")
        path = self.config.getoption("hardware_report")
        if path:
            terminalreporter.write_line(f"  report: {path}")

    # running

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Only tests that cannot run come here: the others are set up in their child."""
        if is_hardware(item) and self.identity["unusable"] is not None:
            pytest.skip(f"no real board: {self.identity['unusable']}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run a hardware test in a child."""
        if not is_hardware(item) or self.identity["unusable"] is not None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        limit: float = self.config.getoption("hardware_timeout")
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "reports")
            output, ended, stuck = self._run(self._command(item, path), limit)
            lines = path.read_text().splitlines() if path.exists() else []
        seconds = time.perf_counter() - start
        hook = self.config.hook
        found = [hook.pytest_report_from_serializable(config=self.config, data=json.loads(line)) for line in lines]
        yield from found
        if any(r.when == "teardown" for r in found) and ended is not None:
            return
        if ended is None:
            reason = f"the test did not end within {limit:g} s and was stopped"
            if stuck:
                reason += "; its process is blocked in a system call and does not end: reboot the board"
                item.session.shouldstop = "a test is blocked in a system call; reboot the board"
        elif ended < 0:
            reason = f"the process of the test was ended by signal {-ended} ({signal.strsignal(-ended)})"
        else:
            reason = f"the process of the test ended with status {ended} and without a result"
        when = "teardown" if any(r.when == "call" for r in found) else "call"
        yield pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={"hardware": 1},
            outcome="failed",
            longrepr=f"{reason}\n{output[-4000:]}".rstrip(),
            when=when,  # type: ignore[arg-type]  # one of the phases
            duration=seconds,
        )

    def _command(self, item: pytest.Item, path: Path) -> list[str]:
        config = self.config
        ini = ["-c", str(config.inipath)] if config.inipath is not None else []
        own = ["--hardware-child", str(path), "--hardware-device", self.device]
        quiet = ["-m", "hardware", "-p", "no:cacheprovider", "-n0", "-q"]
        root = ["--rootdir", str(config.rootpath)]
        return [sys.executable, "-m", "pytest", *ini, *root, *quiet, *own, item.nodeid]

    def _run(self, command: list[str], limit: float) -> tuple[str, int | None, bool]:
        """(output, status or None when the deadline came first, whether it could not even be killed)."""
        with tempfile.TemporaryFile() as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.config.rootpath,
                env=_environment(),
                start_new_session=True,
            )
            stuck = False
            status: int | None = None
            try:
                status = child.wait(limit)
            except subprocess.TimeoutExpired:
                stuck = not _end(child)
            except BaseException:  # Ctrl-C is for the child too, which has a session of its own
                _end(child)
                raise
            output.seek(0)
            return output.read().decode(errors="replace"), status, stuck

    # results

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a hardware test."""
        if "hardware" not in report.keywords:
            return
        row = self.rows.setdefault(
            report.nodeid, {"test": report.nodeid, "outcome": "passed", "seconds": 0.0, "message": None}
        )
        row["seconds"] += report.duration
        if not report.passed and row["outcome"] != "failed":
            row["outcome"] = report.outcome
            row["message"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == "figure" and isinstance(value, dict):
                    self.figures.append({**value, "test": report.nodeid})

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """Write the report."""
        result = yield
        path = self.config.getoption("hardware_report")
        if path and not hasattr(self.config, "workerinput"):
            Path(path).write_text(json.dumps(self.report(), indent=1) + "\n")
        return result

    def report(self) -> dict[str, Any]:
        """All facts that a reader needs to judge this run."""
        outcomes = [row["outcome"] for row in self.rows.values()]
        return {
            "format": 1,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": time.time() - self.started,
            "machine": {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()},
            "identity": self.identity,
            "counts": {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")},
            "tests": list(self.rows.values()),
            "figures": self.figures,
        }


def _environment() -> dict[str, str]:
    """For children: this checkout, and no device chosen by the environment."""
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {k: v for k, v in os.environ.items() if k not in ("QPU_DEVICE", "PYTEST_ADDOPTS")}
    return {**environment, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def _end(child: subprocess.Popen[bytes]) -> bool:
    """End a child and what it started; False when it does not end even then."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
            if number == signal.SIGTERM:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # grandchildren that ignored it
            return True
    return False
