"""The kernel language: one Python source for all three GPUs."""

from __future__ import annotations
