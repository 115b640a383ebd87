"""Emulated boards: engines that execute programs, and a Linux around them that drivers call through a `Port`."""
