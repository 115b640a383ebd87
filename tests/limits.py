"""How long tests wait for what always comes: one limit for all, far above what a machine under load 20 needs."""

HUNG_S = 900.0
"""Seconds until a child process, a thread or a queue counts as hung. A test that passes never waits that long."""
