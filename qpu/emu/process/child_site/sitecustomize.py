"""The sitecustomize of child processes of `qpu emulate`: puts them on an emulated board, then runs the system's own."""

import importlib.machinery
import importlib.util
import os
import sys


def _chain() -> None:
    """Load the sitecustomize module that this file hides."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [p for p in sys.path if os.path.abspath(p or ".") != here]
    sys.path[:] = others
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _emulate() -> None:
    if importlib.util.find_spec("qpu") is None:
        # At the end of the path, so that it does not hide modules of the program.
        root = os.path.abspath(__file__)
        for _ in range(5):  # this file, child_site, process, emu, qpu
            root = os.path.dirname(root)
        sys.path.append(root)
    try:
        from qpu.emu.process.run import install_child
    except ImportError as error:
        print(
            f"qpu emulate: this child process ({sys.executable}) cannot import qpu, so it cannot run on the emulated "
            f"board {os.environ['QPU_EMULATE']}: {error}\n"
            "  help: install videocore-qpu for it, or unset QPU_EMULATE in its environment",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(1)
    install_child()


if os.environ.get("QPU_EMULATE"):
    _emulate()
_chain()
