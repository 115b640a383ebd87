"""Programs of PyVideoCore, py-videocore6 and py-videocore7 on this package.

`qpu.compat.videocore`, `.videocore6` and `.videocore7` have the decorators, builder names, `Driver` and arrays of those
libraries, over our builders and devices: change an old program's imports, and it runs on real and emulated boards.
`qpu.compat.shims` lets unmodified programs and libraries run on current versions of Python and NumPy
(`qpu emulate --compat`). `qpu.compat.port` rewrites an old program in our own dialect (`qpu port`).
"""

from __future__ import annotations

__all__: list[str] = []
