"""Recognises handwritten digits with LeNet-5 on the GPU, in float32 and in int8, and checks every class with NumPy.

Examples:
    uv run examples/lenet.py
    uv run examples/lenet.py --images 360 --device all
    uv run examples/lenet.py --output maps.png

The weights come from tools/train_lenet.py; the images are held-out ones of scikit-learn's digits, 8 by 8 pixels made
28 by 28. int8 has a scale for each output channel, and gives the same bits as NumPy on every GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _common
import _png
import numpy as np
from numpy.typing import NDArray

from qpu.device import Device
from qpu.emu.engine.machine import RunStats
from qpu.kernels import nn
from qpu.kernels.image.sizes import table
from qpu.kernels.nn.conv import reference_conv2d
from qpu.kernels.nn.int8 import reference_requantise

Array = NDArray[Any]
F, B, N = np.float32, np.int8, np.int32
FILE = Path(__file__).parent / "lenet.npz"
BATCH = 40  # images of a launch
LOW = -128  # what 0 is in int8: activations are not negative


def upsampled(digits: Array) -> Array:
    """Digits of 8 by 8 pixels, 0..16, as n, 1, 28, 28 of 0..1."""
    m = table(8, 28, "bilinear").matrix(8)
    return np.ascontiguousarray((m @ (digits / 16.0) @ m.T)[:, None].astype(F))


def pooled(x: Array) -> Array:
    """Maxima of 2 by 2."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def reference(p: dict[str, Array], x: Array) -> list[Array]:
    """The five layers in NumPy, in float64: after each convolution (pooled) and each linear layer."""
    q = {n: v.astype(np.float64) for n, v in p.items()}
    layers = [pooled(np.maximum(reference_conv2d(x, q["w1"], q["b1"], padding=2), 0))]
    layers.append(pooled(np.maximum(reference_conv2d(layers[-1], q["w2"], q["b2"]), 0)))
    layers.append(np.maximum(layers[-1].reshape(len(x), -1) @ q["w3"].T + q["b3"], 0))
    layers.append(np.maximum(layers[-1] @ q["w4"].T + q["b4"], 0))
    layers.append(layers[-1] @ q["w5"].T + q["b5"])
    return layers


def quantised(p: dict[str, Array], largest: Array) -> dict[str, Array]:
    """Weights and biases of int8, with the scales between the layers."""
    scales = [1 / 255.0, *(largest / 255.0)]  # of the activations that go into each layer
    found: dict[str, Array] = {}
    for n in range(1, 6):
        w = p[f"w{n}"].reshape(len(p[f"w{n}"]), -1).astype(np.float64)
        own = np.abs(w).max(1) / 127
        found[f"w{n}"] = np.rint(w / own[:, None]).astype(B).reshape(p[f"w{n}"].shape)
        found[f"b{n}"] = np.rint(p[f"b{n}"] / (own * scales[n - 1])).astype(N)
        found[f"s{n}"] = (own * scales[n - 1] / (scales[n] if n < 5 else 1.0)).astype(F)
    return found


def reference_int8(p: dict[str, Array], x: Array) -> list[Array]:
    """The same layers of int8 in NumPy, bit by bit."""
    layers = [pooled(_layer(p, 1, reference_conv2d(x.astype(np.int64) - LOW, p["w1"], p["b1"], padding=2)))]
    layers.append(pooled(_layer(p, 2, reference_conv2d(layers[-1].astype(np.int64) - LOW, p["w2"], p["b2"]))))
    flat = layers[-1].reshape(len(x), -1)
    for n in (3, 4, 5):
        total = (flat.astype(np.int64) - LOW) @ p[f"w{n}"].astype(np.int64).T + p[f"b{n}"]
        flat = _layer(p, n, total) if n < 5 else total * p["s5"].astype(np.float64)
        layers.append(flat)
    return layers


def _layer(p: dict[str, Array], n: int, total: Array) -> Array:
    scale = p[f"s{n}"].reshape(1, -1, *([1] * (total.ndim - 2)))
    return reference_requantise(np.maximum(total, 0), scale, LOW)


class Network:
    """LeNet-5 on a device, for batches of images. p: the weights, float32, or int8 with scales."""

    def __init__(self, gpu: Device, p: dict[str, Array], batch: int) -> None:
        self.gpu, self.batch = gpu, batch
        self.int8 = p["w1"].dtype == B
        self.p = {n: gpu.array(v) for n, v in p.items()}
        self.scale = p.get("s5")
        kind = B if self.int8 else F
        shapes = ((6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120,), (84,))
        self.x = gpu.empty((batch, 1, 28, 28), kind)
        self.y = [gpu.empty((batch, *s), kind) for s in shapes]
        self.logits = gpu.empty((batch, 10), N if self.int8 else F)
        self.runs: list[Any] = []

    def __call__(self, x: Array) -> Array:
        """The ten numbers for each image of a batch."""
        y, flat = self.y, self.y[3].view(0, (self.batch, 400))
        self.x.write(x)
        self.runs = [self._conv(1, self.x, y[0], padding=2), nn.max_pool(y[0], y[1], 2), self._conv(2, y[1], y[2]),
                     nn.max_pool(y[2], y[3], 2), self._linear(3, flat, y[4]), self._linear(4, y[4], y[5]),
                     self._linear(5, y[5], self.logits)]  # fmt: skip
        found = self.logits.numpy()
        return found * self.scale if self.scale is not None else found

    def _conv(self, n: int, x: Any, out: Any, padding: int = 0) -> Any:
        w, b = self.p[f"w{n}"], self.p[f"b{n}"]
        if not self.int8:
            return nn.conv2d(x, w, out, b, padding=padding, activation="relu")
        return nn.conv2d_int8(x, w, out, b, self.p[f"s{n}"], zero=LOW, zero_out=LOW, padding=padding, relu=True)

    def _linear(self, n: int, x: Any, out: Any) -> Any:
        w, b = self.p[f"w{n}"], self.p[f"b{n}"]
        if not self.int8:
            return nn.linear(x, w, out, b, "relu" if n < 5 else "none")
        if n == 5:
            return nn.linear_int8(x, w, out, b, zero=LOW)
        return nn.linear_int8(x, w, out, b, self.p[f"s{n}"], zero=LOW, zero_out=LOW, relu=True)

    @property
    def stats(self) -> RunStats | None:
        """Statistics of the last batch, on an emulated board."""
        found = [launch.stats for run in self.runs for launch in run.launches]
        return None if not found or None in found else RunStats.total(found)


def load() -> tuple[dict[str, Array], Array, Array, Array]:
    """Weights, the largest activations, images and classes."""
    with np.load(FILE) as file:
        data = {n: file[n] for n in file.files}
    weights = {n: data[n].astype(F) for n in data if n[0] in "wb"}
    return weights, data["largest"], data["digits"], data["classes"]


def sheet(network: Network, x: Array) -> Array:
    """A picture of the feature maps of the first images: each image, then what the two convolutions make of it."""
    maps = [network.y[n].numpy().astype(F) for n in (1, 3)]
    rows = []
    for n in range(min(4, len(x))):
        tiles = [x[n, 0].astype(F), *(np.kron(m, np.ones((2, 2))) for m in maps[0][n]),
                 *(np.kron(m, np.ones((5, 5)))[:28, :28] for m in maps[1][n])]  # fmt: skip
        framed = []
        for tile in tiles:
            square = np.zeros((28, 28))
            square[: tile.shape[0], : tile.shape[1]] = (tile - tile.min()) / max(float(np.ptp(tile)), 1e-6)
            framed.append(np.pad(255 * square, 1, constant_values=128))
        rows.append(np.concatenate(framed, 1))
    return np.rint(np.concatenate(rows)).astype(np.uint8)


def work(gpu: Device, count: int, output: Path | None) -> dict[str, object]:
    """Run, check and draw."""
    weights, largest, digits, classes = load()
    digits, classes = digits[:count], classes[:count]
    batch = min(BATCH, count)
    x = upsampled(digits)
    small = np.rint(x * 255).astype(np.int64) + LOW
    narrow = quantised(weights, largest)
    kinds = (("f32", weights, x, reference), ("int8", narrow, small.astype(B), reference_int8))
    row: dict[str, object] = {}
    instructions, wrong, seconds, error = 0, 0, 0.0, 0.0
    for name, p, images, model in kinds:
        network = Network(gpu, p, batch)
        want = model(p, images)[-1]
        found = np.zeros_like(want)
        for start in range(0, count, batch):
            some = slice(max(0, min(start, count - batch)), None)
            piece = images[some][:batch]
            found[some][:batch] = network(piece)
        seconds += _common.median_time(lambda network=network, piece=piece: network(piece), lambda: None, 1)
        wrong += int((found.argmax(1) != want.argmax(1)).sum())
        error = max(error, float(np.abs(found - want).max()))
        row[f"{name}_right"] = float((found.argmax(1) == classes).mean())
        if network.stats is not None:
            instructions += network.stats.instructions
        if output is not None and name == "f32":
            _png.write(output, sheet(network, piece))
            row["output"] = str(output)
    # sums of up to 400 products of activations and weights, five layers deep
    made = _common.result(gpu, "lenet", n=count, seconds=seconds, max_abs_error=error, wrong=wrong,
                          ok=wrong == 0 and error < 0.01, **row)  # fmt: skip
    if gpu.emulated:
        made["instructions"] = instructions
    return made


def show(gpu: Device, row: dict[str, object]) -> None:
    """Print a result."""
    _common.show(gpu, row)
    if "output" in row:
        print(f"  picture  {row['output']}")
    for name in ("f32", "int8"):
        print(f"  {name:8} {100 * float(str(row[f'{name}_right'])):.1f} % of {row['n']} images as they are labelled")


def run() -> int:
    """The whole example."""
    parser = _common.parser(__doc__)
    parser.add_argument("--images", type=int, default=8, help="held-out images, 1 .. 360 (default 8)")
    _png.add_output(parser, "lenet.png")
    options = parser.parse_args()
    _common.within("--images", options.images, 1, 360)
    output = _png.output_of(options, "lenet.png")
    return _common.on_devices(options, lambda gpu: work(gpu, options.images, output(gpu)), show)


if __name__ == "__main__":
    _common.main(run)
