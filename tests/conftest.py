"""Common settings of all tests."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if os.environ.get("PYTHONDONTWRITEBYTECODE") and not os.environ.get("PYTEST_XDIST_WORKER"):
    # Hundreds of tests start processes: none of them should compile the package anew. Bytecode goes to a folder of
    # this run, so that nothing is written beside the sources.
    _bytecode = tempfile.mkdtemp(prefix="qpu-tests-")
    atexit.register(shutil.rmtree, _bytecode, ignore_errors=True)
    del os.environ["PYTHONDONTWRITEBYTECODE"]
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = _bytecode
    sys.dont_write_bytecode = False

# A machine under load is slow, not wrong: examples have no deadline (see limits.py for everything else).
settings.register_profile("qpu", deadline=None)
settings.load_profile("qpu")

# The subset that CI runs on each further Python: code that may depend on it (frames and their positions, signals,
# descriptors, what `qpu emulate` replaces, command line), and one path through each chip from text to result.
SMOKE = frozenset(
    """
    lang/test_tune.py core/test_builder.py core/test_errors.py core/test_hazards.py core/test_scalar_lanes.py
    drivers/test_board.py drivers/test_drm.py drivers/test_linux.py drivers/test_probe.py
    drivers/vc4/test_adapter.py drivers/vc4/test_exit_guard.py drivers/vc4/test_mailbox.py drivers/vc4/test_vcsm.py
    emu/linux/test_linux_drm.py emu/linux/test_linux_port.py emu/linux/test_linux_vc4.py
    emu/process/test_corners.py emu/process/test_emulate.py
    emu/test_translation_cache.py emu/v3d/test_programs.py emu/vc4/test_programs.py
    kernels/test_sgemm.py
    test_cli.py test_counters.py test_device.py test_displays.py test_formats.py test_interrupts.py test_layers.py
    test_portability.py test_run_identity.py test_signals_in_calls.py test_without_llvmlite.py
    v3d/test_builder.py v3d/test_cases.py v3d/test_golden.py v3d/test_input.py v3d/test_pairing.py
    vc4/assembler/test_errors.py vc4/assembler/test_golden.py vc4/assembler/test_language.py
    vc4/test_asm.py vc4/test_golden.py vc4/test_pairing.py
    """.split()
)

pytest_plugins = ["tests.hw.plugin"]  # options and process isolation of `-m hardware`


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Processes of `-n auto`: none for the hardware tests, which use one GPU; otherwise one per core, eight at most."""
    marks: str = config.option.markexpr
    if "hardware" in marks and "not hardware" not in marks:
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the smoke subset."""
    here = Path(__file__).parent
    missing = [name for name in SMOKE if not (here / name).is_file()]
    if missing:
        raise pytest.UsageError(f"tests/conftest.py: SMOKE names files that are not there: {' '.join(sorted(missing))}")
    for item in items:
        if item.path.relative_to(here).as_posix() in SMOKE:
            item.add_marker(pytest.mark.smoke)


@pytest.fixture(autouse=True, scope="module")
def _settled() -> None:
    """A collection of garbage, which many tests ask for, looks only at what its own module made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests do not use devices of the host, have a cache of translations of their own, and react to Ctrl-C."""
    patch = pytest.MonkeyPatch()
    patch.delenv("QPU_DEVICE", raising=False)
    patch.delenv("QPU_SYSROOT", raising=False)
    patch.delenv("QPU_EMU_ENGINE", raising=False)
    patch.delenv("QPU_EMU_STRICT", raising=False)
    patch.delenv("QPU_EMU_VECTORS", raising=False)
    patch.delenv("QPU_EMU_HOST_LIMIT_S", raising=False)
    base = tmp_path_factory.getbasetemp()
    # the processes of one run share what they translate
    cache: Path = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "translations"
    patch.setenv("QPU_CACHE_DIR", str(cache))
    # a run in the background of a shell, or under nohup, inherits an ignored SIGINT, which Python then leaves alone
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, interrupt)
    patch.undo()
