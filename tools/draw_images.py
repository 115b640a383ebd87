"""Draws docs/images/image-functions.png: a photograph, and what each function of `qpu.kernels.image` makes of it.

    uv run --with pillow tools/draw_images.py [--device pi5]

Every tile is computed on the (emulated) GPU. Edges have a sign and are shown around grey.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import qpu
from qpu.device import Device
from qpu.kernels import image as im

ROOT = Path(__file__).parent.parent
SIDE, LABEL, ACROSS = 88, 13, 8
B = np.uint8


def photograph() -> Any:
    """Grey, SIDE by SIDE."""
    with Image.open(ROOT / "examples" / "images" / "camera.png") as file:
        return np.asarray(file.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def coloured(grey: Any) -> Any:
    """Three channels that differ."""
    r, c = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    tints = np.stack([0.45 + 0.55 * c, 0.55 + 0.4 * r, 1 - 0.6 * c], -1)
    return np.rint(grey[:, :, None] * tints).astype(B)


def tiles(gpu: Device) -> list[tuple[str, Any]]:
    """Names and pictures, the photograph before what is made of it."""
    grey = photograph()
    colour, noisy = coloured(grey), grey.copy()
    random = np.random.default_rng(3)
    noisy[random.uniform(size=grey.shape) < 0.06] = 0
    noisy[random.uniform(size=grey.shape) < 0.06] = 255
    x, c, n, dim = (gpu.array(v) for v in (grey, colour, noisy, (grey // 4 + 60).astype(B)))

    def made(function: Callable[..., Any], *args: Any, shape: Any = None, dtype: Any = B, **options: Any) -> Any:
        source = args[0]
        out = gpu.zeros(source.shape if shape is None else shape, dtype)
        function(source, out, *args[1:], **options)
        return out.numpy()

    y, u, v = (gpu.zeros((s, s), B) for s in (SIDE, SIDE // 2, SIDE // 2))
    im.yuv420_of_rgb(c, y, u, v)
    rgb = gpu.zeros(colour.shape, B)
    im.rgb_of_yuv420(y, u, v, rgb)
    mixed = gpu.zeros(grey.shape, B)
    im.blend(x, gpu.array(grey[::-1].copy()), mixed, 0.5)
    sharp = [[0, -1, 0], [-1, 5, -1], [0, -1, 0]]
    turn = np.deg2rad(20)
    centre = SIDE / 2
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0]])
    rotation[:, 2] = centre - rotation[:, :2] @ (centre, centre)
    keystone = [[1, 0.35, -14], [0, 1.3, -6], [0, 0.006, 1]]
    negative = gpu.array(np.arange(255, -1, -1, dtype=B))
    half, double = (SIDE // 2, SIDE // 2), (2 * SIDE, 2 * SIDE)
    corner = gpu.array(np.ascontiguousarray(grey[16:38, 30:52]))
    bins = gpu.zeros(256, np.int32)
    im.histogram(x, bins)
    bars = np.full((SIDE, SIDE), 255, B)
    heights = np.add.reduceat(bins.numpy(), np.linspace(0, 255, SIDE).astype(int))
    for column, height in enumerate(heights * (SIDE - 4) // heights.max()):
        bars[SIDE - height :, column] = 40
    return [
        ("photograph", grey), ("box 7", made(im.box, x, 7)), ("gaussian 2", made(im.gaussian, x, 2.0)),
        ("separable", made(im.separable, x, (1,), (-1, 3, -1))), ("filter2d sharpen", made(im.filter2d, x, sharp)),
        ("sobel", made(im.sobel, x)), ("sobel x", 128 + made(im.sobel, x, "x", 0.25, dtype=np.float32)),
        ("threshold", made(im.threshold, x, 110)),
        ("with noise", noisy), ("median 3", made(im.median, n, 3)), ("median 5", made(im.median, n, 5)),
        ("erode 3", made(im.erode, x, 3)), ("dilate 3", made(im.dilate, x, 3)),
        ("lookup", made(im.lookup, x, negative)),
        ("dim", dim.numpy()), ("equalise", made(im.equalise, dim)),
        ("corner, 22 x 22", grey[16:38, 30:52]),
        ("resize nearest", made(im.resize, corner, "nearest", shape=grey.shape)),
        ("resize bilinear", made(im.resize, corner, "bilinear", shape=grey.shape)),
        ("resize area", made(im.resize, x, "area", shape=(30, 30))),
        ("pyramid_down", made(im.pyramid_down, x, shape=half)),
        ("pyramid_up", made(im.pyramid_up, x, shape=double)[:SIDE, :SIDE]), ("warp affine", made(im.warp, x, rotation)),
        ("perspective", made(im.warp, x, keystone)),
        ("in colour", colour), ("grey", made(im.grey, c, shape=grey.shape)),
        ("rgb_of_grey", made(im.rgb_of_grey, x, shape=colour.shape)), ("tint", made(im.tint, c, (1.3, 0.9, 0.4))),
        ("yuv420: y, u, v", np.block([[y.numpy()[::2, ::2], u.numpy()], [np.zeros(half, B), v.numpy()]])),
        ("rgb_of_yuv420", rgb.numpy()), ("blend, turned", mixed.numpy()), ("histogram", bars),
    ]  # fmt: skip


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="pi5")
    options = parser.parse_args()
    with qpu.open_device(options.device) as gpu:
        pictures = tiles(gpu)
    rows = -(-len(pictures) // ACROSS)
    sheet = Image.new("RGB", (ACROSS * (SIDE + 6) + 6, rows * (SIDE + LABEL + 6) + 6), (250, 250, 252))
    draw = ImageDraw.Draw(sheet)
    for number, (name, pixels) in enumerate(pictures):
        left, top = 6 + number % ACROSS * (SIDE + 6), 6 + number // ACROSS * (SIDE + LABEL + 6)
        sheet.paste(Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(B)), (left, top))
        draw.text((left, top + SIDE + 1), name, fill=(40, 40, 50))
    path = ROOT / "docs" / "images" / "image-functions.png"
    sheet.quantize(160).save(path, optimize=True)
    print(path.relative_to(ROOT), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
