"""STAND-IN for rpi-vcsm 3.0.0, for tests only: its public names over anonymous memory, without system calls.

Written from a description of the package's interface, not from its code. It is importable only where a test puts
``tests/stand_ins`` on the path.
"""

CACHE_NONE, CACHE_HOST, CACHE_VC, CACHE_BOTH = range(4)
CACHE_OP_NOP, CACHE_OP_INVALIDATE, CACHE_OP_CLEAN, CACHE_OP_FLUSH = range(4)
STAND_IN = True
