"""Signals between steps of an emulation instead of inside one."""

from __future__ import annotations

from qpu.core.deferred_signals import StopRequest

__all__ = ["StopRequest"]
