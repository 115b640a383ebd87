"""The kernels of a file or module of Python, for commands that compile them ahead."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from typing import Any

from qpu.errors import CompileError, UsageError
from qpu.lang.entry import Kernel
from qpu.scripts import users_code

__all__ = ["kernels_of"]


def kernels_of(name: str) -> list[Any]:
    """The kernels that a file or module of Python defines, in its order.

    Raises: UsageError when there is none such; CompileError; SystemExit after showing what its code has raised.
    """
    file = name.endswith(".py")
    if file:
        try:
            Path(name).open("rb").close()
        except OSError as error:
            what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
            raise UsageError(f"cannot read {name}: {what}", help="give a .py file or an importable module") from None
        sys.path.insert(0, str(Path(name).parent))
    found: dict[str, Any] = {}
    refused: UsageError | None = None
    with users_code(CompileError, SyntaxError):
        try:
            found = runpy.run_path(name, run_name=Path(name).stem) if file else vars(importlib.import_module(name))
        except SystemExit as end:
            help = "put what the file runs by itself under `if __name__ == '__main__':`"
            refused = UsageError(f"{name} ended by sys.exit({end.code!r}) while it was imported", help=help)
        except ModuleNotFoundError as error:
            if file or error.name != name:
                raise
            refused = UsageError(f"no module {name!r}", help="a file (kernels.py), or a module's name")
    if refused is not None:
        raise refused
    home = found.get("__name__")
    own = {id(v): v for v in found.values() if isinstance(v, Kernel) and v.fn.__module__ == home}
    return list(own.values())
