"""Programs of the user that commands run: what they raise is shown as Python does, from their own first line on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["users_code"]

_PACKAGE = os.path.dirname(__file__) + os.sep
_MACHINERY = (f"{os.sep}runpy.py", f"{os.sep}importlib{os.sep}__init__.py", f"{os.sep}contextlib.py")


def _from_first_line(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that started the program: those of this package and of Python's machinery."""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not (name.startswith((_PACKAGE, "<frozen ")) or name.endswith(_MACHINERY)):
            break
        trace = trace.tb_next
    return trace


@contextmanager
def users_code(*ours: type[Exception]) -> Iterator[None]:
    """A block that runs code of the user. An exception that it raises is printed, and the command ends with status 1.

    ours: exceptions that pass, as the command explains them. ``QPU_TRACEBACK=full`` shows all frames.
    Raises: SystemExit.
    """
    try:
        yield
    except ours:
        raise
    except Exception as error:
        found = _from_first_line(error.__traceback__)
        if found is None or os.environ.get("QPU_TRACEBACK") == "full":
            raise
        sys.excepthook(type(error), error.with_traceback(found), found)
        raise SystemExit(1) from None
