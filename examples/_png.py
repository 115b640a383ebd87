"""PNG files of pictures, 8 bits a channel, with only the standard library and NumPy; the option --output."""

from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
import numpy as np

from qpu.device import Device
from qpu.errors import UsageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LIMIT = 1 << 28  # bytes of a file
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type
LARGEST = 4096  # pixels along an edge


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def encode(pixels: Any) -> bytes:
    """A PNG file of uint8 pixels, shape (height, width) for grey or (height, width, 3) for colour."""
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UsageError(
            f"pixels of {pixels.dtype}, shape {pixels.shape}; allowed: uint8 of (height, width) or (height, width, 3)",
            help="round and clip them: np.rint(x).clip(0, 255).astype(np.uint8)",
        )
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows - above], 1)  # filter 2: less the row above
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.ndim == 2 else 2, 0, 0, 0)
    return (
        SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 9))
        + _chunk(b"IEND", b"")
    )


def add_output(parser: argparse.ArgumentParser, default: str) -> None:
    """The option --output."""
    parser.add_argument(
        "--output",
        metavar="PNG",
        help=f"file for the picture (default {default}, none with --json); --device all adds the device's name",
    )


def output_of(options: argparse.Namespace, default: str) -> Callable[[Device], Path | None]:
    """The file for the picture of a device, None for no file. Raises: UsageError when the directory does not exist."""
    name = options.output or (None if options.json else default)
    if name is None:
        return lambda gpu: None
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--output {name} is not a file in an existing directory", help="make the directory first")
    if options.device != "all":
        return lambda gpu: path
    return lambda gpu: path.with_name(f"{path.stem}-{gpu.info.emulated or gpu.isa}{path.suffix}")


def show(gpu: Device, row: dict[str, object]) -> None:
    """Print a result with its picture."""
    _common.show(gpu, row)
    if "output" in row:
        print(f"  picture  {row['output']}, {row['width']} x {row['height']} pixels")


def write(path: Path, pixels: Any) -> None:
    """Write a PNG file. Raises: OSError."""
    path.write_bytes(encode(pixels))


def read_grey(path: str | Path) -> Any:
    """The grey values of a PNG file: uint8, shape (height, width); colour becomes luma (Rec. 601), alpha is ignored.

    Raises: OSError; UsageError for anything but 8 bits a channel, without palette or interlacing.
    """
    with open(path, "rb") as file:
        data = file.read(LIMIT + 1)
    try:
        if len(data) > LIMIT:
            raise ValueError(f"more than {LIMIT >> 20} MiB")
        return _decode(data)
    except (struct.error, zlib.error, ValueError, IndexError) as error:
        raise UsageError(
            f"{path}: {error}; allowed: an 8-bit grey or RGB PNG without interlacing", help="convert the picture first"
        ) from None


def _decode(data: bytes) -> Any:
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    at, body, header = len(SIGNATURE), [], b""
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + 8 + size]
        if len(content) != size or struct.unpack_from(">I", data, at + 8 + size)[0] != zlib.crc32(kind + content):
            raise ValueError("damaged: a checksum is wrong")
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            body.append(content)
        at += 12 + size
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if depth != 8 or colour not in CHANNELS or interlaced:
        raise ValueError(f"{depth} bits, colour type {colour}{', interlaced' if interlaced else ''}")
    if not (0 < width <= LARGEST and 0 < height <= LARGEST):
        raise ValueError(f"{width} x {height} pixels, at most {LARGEST} each way")
    channels = CHANNELS[colour]
    raw = np.frombuffer(zlib.decompress(b"".join(body)), np.uint8)
    pixels = _unfilter(raw.reshape(height, 1 + width * channels), channels).reshape(height, width, channels)
    if channels < 3:
        return pixels[:, :, 0].copy()
    return np.rint(pixels[:, :, :3] @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def _unfilter(lines: Any, channels: int) -> Any:
    """Undo the five filters of the format, row by row."""
    rows = np.zeros((len(lines), lines.shape[1] - 1), np.uint8)
    above = np.zeros(lines.shape[1] - 1, np.uint8)
    for y, line in enumerate(lines):
        kind, row = line[0], line[1:].copy()
        if kind == 1:
            row = np.cumsum(row.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            row += above
        elif kind in (3, 4):
            row = np.array(_sequential(int(kind), row.tolist(), above.tolist(), channels), np.uint8)
        elif kind:
            raise ValueError(f"unknown filter {kind}")
        rows[y] = above = row
    return rows


def _sequential(kind: int, row: list[int], above: list[int], channels: int) -> list[int]:
    """Filters 3 (mean of left and above) and 4 (the nearest of left, above and diagonal to their plane)."""
    for i, value in enumerate(row):
        a = row[i - channels] if i >= channels else 0
        b = above[i]
        if kind == 3:
            guess = (a + b) // 2
        else:
            c = above[i - channels] if i >= channels else 0
            near = (abs(b - c), abs(a - c), abs(a + b - 2 * c))
            guess = (a, b, c)[near.index(min(near))]
        row[i] = (value + guess) & 255
    return row
