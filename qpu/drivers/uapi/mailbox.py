"""Firmware mailbox: the request number of /dev/vcio, the message frame and the execute block (drivers.md 4.1, 4.4)."""

from __future__ import annotations

from qpu.drivers.uapi.layout import Ioctl, parse_ioctls, parse_structs

__all__ = [
    "CODE_PARSE_ERROR", "CODE_REQUEST", "CODE_SUCCESS", "IOCTLS", "MAX_PROGRAMS", "PROPERTY", "STRUCTS", "TAG_END",
    "TAG_REPLY", "layout",
]  # fmt: skip

# A message is the header, then per tag this frame and its value area padded to words, then the end tag in the very
# last word: the driver strips eight bytes at the start and four at the end, and rebuilds them.
STRUCTS = parse_structs(
    """
    mbox_header: u32 total_size, u32 code
    mbox_tag: u32 id, u32 value_size, u32 request_size
    execute_qpu_entry: u32 uniforms, u32 code
    """
)

# _IOWR(100, 0, char *): the size bits are those of a pointer of the calling process, the argument is the message.
IOCTLS: dict[str, Ioctl] = parse_ioctls("IOCTL_MBOX_PROPERTY RW 100 0 ptr", STRUCTS)
PROPERTY: Ioctl = IOCTLS["IOCTL_MBOX_PROPERTY"]

CODE_REQUEST = 0
CODE_SUCCESS = 0x8000_0000
CODE_PARSE_ERROR = 0x8000_0001
TAG_REPLY = 0x8000_0000  # bit of the third word of a tag in a reply; the other bits are the length
TAG_END = 0
MAX_PROGRAMS = 12  # of one execute call


layout = STRUCTS.layout
"""Layout of the structure called `name` for a process with pointers of `pointer_size` bytes."""
