"""GPGPU from Python on every Raspberry Pi GPU, and on an emulated board everywhere else.

Names are loaded when first used, so that ``import qpu`` costs next to nothing and does not load NumPy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers treat it as true; importing `typing` would take longer than the rest

if TYPE_CHECKING:
    from qpu import v3d as v3d
    from qpu import vc4 as vc4
    from qpu.buffers import Buffer as Buffer
    from qpu.buffers import BufferView as BufferView
    from qpu.core.isa import Isa as Isa
    from qpu.debug.profile import profile as profile
    from qpu.debug.record import record as record
    from qpu.debug.replay import replay as replay
    from qpu.debug.sanitizer import sanitize as sanitize
    from qpu.device import Device as Device
    from qpu.device import open_device as open_device
    from qpu.errors import AsmError as AsmError
    from qpu.errors import CompileError as CompileError
    from qpu.errors import DecodeError as DecodeError
    from qpu.errors import DriverError as DriverError
    from qpu.errors import EmuFault as EmuFault
    from qpu.errors import EmuWarning as EmuWarning
    from qpu.errors import GpuResetError as GpuResetError
    from qpu.errors import GpuTimeoutError as GpuTimeoutError
    from qpu.errors import HazardError as HazardError
    from qpu.errors import NoDeviceError as NoDeviceError
    from qpu.errors import OverrunError as OverrunError
    from qpu.errors import QpuError as QpuError
    from qpu.errors import UsageError as UsageError
    from qpu.instruction_sets import InstructionSet as InstructionSet
    from qpu.instruction_sets import assemble as assemble
    from qpu.instruction_sets import isa as isa
    from qpu.lang.elementwise import ufunc as ufunc
    from qpu.lang.entry import kernel as kernel
    from qpu.launch import Launch as Launch
    from qpu.program import Program as Program

__version__ = "0.1.0"

_NAMES = {
    "qpu.buffers": "Buffer BufferView",
    "qpu.core.isa": "Isa",
    "qpu.debug.profile": "profile",
    "qpu.debug.record": "record",
    "qpu.debug.replay": "replay",
    "qpu.debug.sanitizer": "sanitize",
    "qpu.device": "Device open_device",
    "qpu.errors": "AsmError CompileError DecodeError DriverError EmuFault EmuWarning GpuResetError GpuTimeoutError "
    "HazardError NoDeviceError OverrunError QpuError UsageError",
    "qpu.instruction_sets": "InstructionSet assemble isa",
    "qpu.lang.elementwise": "ufunc",
    "qpu.lang.entry": "kernel",
    "qpu.launch": "Launch",
    "qpu.program": "Program",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", "v3d", "vc4"]
__all__ += sorted(_HOME)


def __getattr__(name: str) -> object:
    if name in ("v3d", "vc4"):
        from importlib import import_module

        return import_module(f"qpu.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'qpu' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
