"""The notebook display of a device: a table of its properties and a picture of its QPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qpu.display.markup import boxes, facts

if TYPE_CHECKING:
    from qpu.drivers.base import DeviceInfo

__all__ = ["device_html"]


def device_html(info: DeviceInfo, *, closed: bool = False) -> str:
    """A table of properties, and a box for each QPU, grouped by slice."""
    values = {
        "board": info.board.model,
        "instruction set": f"{info.isa.label} ({info.isa})",
        "QPUs": f"{info.qpus} = {info.slices} slices × {info.qpus_per_slice}",
        "clock": "unknown" if info.clock_hz is None else f"{info.clock_hz / 1e6:.0f} MHz, nominal",
        "adapter": f"{info.adapter} on {info.node}",
        "driver": " ".join(part for part in (info.driver, info.revision) if part),
        "emulated": "no, a real board"
        if info.emulated is None
        else f"yes, as {info.emulated}; its times are not those of a board",
    }
    if closed:
        values["state"] = "closed"
    caption = "GPU" if info.emulated is None else "Emulated GPU"
    return facts(caption, values) + boxes("QPUs by slice", info.slices, info.qpus_per_slice, "slice")
