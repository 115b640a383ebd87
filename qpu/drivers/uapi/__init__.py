"""Structures and request numbers of Linux interfaces: one row each, for 64-bit and 32-bit Arm processes."""
