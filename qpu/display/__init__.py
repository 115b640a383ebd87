"""Notebook displays. They are imported when a notebook asks for one."""
