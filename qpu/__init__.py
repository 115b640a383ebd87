"""GPGPU from Python on every Raspberry Pi GPU, and on an emulated board everywhere else.

Names are loaded when first used, so that ``import qpu`` costs next to nothing and does not load NumPy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it as true; the module `typing` would cost more than all the rest

if TYPE_CHECKING:
    from qpu import v3d, vc4
    from qpu.buffers import Buffer, BufferView
    from qpu.core.isa import Isa
    from qpu.device import Device, Launch, open_device
    from qpu.errors import (
        AsmError,
        CompileError,
        DecodeError,
        DriverError,
        EmuFault,
        EmuWarning,
        GpuResetError,
        GpuTimeoutError,
        HazardError,
        NoDeviceError,
        QpuError,
        UsageError,
    )
    from qpu.instruction_sets import InstructionSet, assemble, isa
    from qpu.program import Program

__version__ = "0.1.0"

_HOME = {
    "Isa": "qpu.core.isa",
    "Program": "qpu.program",
    "Buffer": "qpu.buffers",
    "BufferView": "qpu.buffers",
    "Device": "qpu.device",
    "Launch": "qpu.device",
    "open_device": "qpu.device",
    "AsmError": "qpu.errors",
    "CompileError": "qpu.errors",
    "DecodeError": "qpu.errors",
    "DriverError": "qpu.errors",
    "EmuFault": "qpu.errors",
    "EmuWarning": "qpu.errors",
    "GpuResetError": "qpu.errors",
    "GpuTimeoutError": "qpu.errors",
    "HazardError": "qpu.errors",
    "NoDeviceError": "qpu.errors",
    "QpuError": "qpu.errors",
    "UsageError": "qpu.errors",
    "InstructionSet": "qpu.instruction_sets",
    "assemble": "qpu.instruction_sets",
    "isa": "qpu.instruction_sets",
}

__all__ = [
    "AsmError",
    "Buffer",
    "BufferView",
    "CompileError",
    "DecodeError",
    "Device",
    "DriverError",
    "EmuFault",
    "EmuWarning",
    "GpuResetError",
    "GpuTimeoutError",
    "HazardError",
    "InstructionSet",
    "Isa",
    "Launch",
    "NoDeviceError",
    "Program",
    "QpuError",
    "UsageError",
    "__version__",
    "assemble",
    "isa",
    "open_device",
    "v3d",
    "vc4",
]


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
