"""Stand-in for rpi-vcsm 3.0.0 that makes the system calls itself; written from its documented interface only."""

CACHE_NONE, CACHE_HOST, CACHE_VC, CACHE_BOTH = range(4)
CACHE_OP_NOP, CACHE_OP_INVALIDATE, CACHE_OP_CLEAN, CACHE_OP_FLUSH = range(4)
