"""Time limit of all tests for events that always happen, far above the need of a machine under load 20."""

HUNG_S = 900.0
"""Seconds until a child process, a thread or a queue counts as hung. A test that passes never waits that long."""
