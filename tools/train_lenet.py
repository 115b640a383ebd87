"""Trains the network of examples/lenet.py on scikit-learn's digits, with NumPy, and writes examples/lenet.npz.

    uv run --with scikit-learn tools/train_lenet.py

The file has the weights as float16, what int8 needs to know (the largest activation of each layer on the training
images), and the held-out images, 8 by 8 in 17 levels, with their classes. The same seed gives the same file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))
Array = NDArray[Any]
F = np.float32


def columns(x: Array, size: int) -> Array:
    """What each pixel of a convolution sees: n, rows, columns, channels * size * size."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    return np.ascontiguousarray(windows.transpose(0, 2, 3, 1, 4, 5)).reshape(
        *windows.shape[:1], *windows.shape[2:4], -1
    )


def convolved(x: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """A convolution and its columns."""
    seen = columns(x, w.shape[2])
    return (seen @ w.reshape(len(w), -1).T + b).transpose(0, 3, 1, 2), seen


def pooled(x: Array) -> tuple[Array, Array]:
    """Maxima of 2 by 2, and where they are."""
    n, c, h, w = x.shape
    four = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
    return four.max(-1), four.argmax(-1)


def spread(grad: Array, at: Array) -> Array:
    """The gradient of `pooled`."""
    n, c, h, w = grad.shape
    four = np.zeros((n, c, h, w, 4), F)
    np.put_along_axis(four, at[..., None], grad[..., None], -1)
    return four.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


def step(p: dict[str, Array], x: Array, classes: Array) -> tuple[float, dict[str, Array]]:
    """Loss and gradients of a batch."""
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    a1, seen1 = convolved(padded, p["w1"], p["b1"])
    q1, at1 = pooled(np.maximum(a1, 0))
    a2, seen2 = convolved(q1, p["w2"], p["b2"])
    q2, at2 = pooled(np.maximum(a2, 0))
    f0 = q2.reshape(len(x), -1)
    f1 = np.maximum(f0 @ p["w3"].T + p["b3"], 0)
    f2 = np.maximum(f1 @ p["w4"].T + p["b4"], 0)
    logits = f2 @ p["w5"].T + p["b5"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    odds /= odds.sum(1, keepdims=True)
    loss = float(-np.log(odds[np.arange(len(x)), classes] + 1e-9).mean())
    d = odds
    d[np.arange(len(x)), classes] -= 1
    d /= len(x)
    g = {"w5": d.T @ f2, "b5": d.sum(0)}
    d = (d @ p["w5"]) * (f2 > 0)
    g |= {"w4": d.T @ f1, "b4": d.sum(0)}
    d = (d @ p["w4"]) * (f1 > 0)
    g |= {"w3": d.T @ f0, "b3": d.sum(0)}
    d4 = spread((d @ p["w3"]).reshape(q2.shape).astype(F), at2) * (a2 > 0)
    flat = d4.transpose(0, 2, 3, 1).reshape(-1, len(p["w2"]))
    g |= {"w2": (flat.T @ seen2.reshape(len(flat), -1)).reshape(p["w2"].shape), "b2": flat.sum(0)}
    turned = p["w2"][:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    d4, _ = convolved(np.pad(d4, ((0, 0), (0, 0), (4, 4), (4, 4))), turned, np.zeros(len(turned), F))
    d4 = spread(d4, at1) * (a1 > 0)
    flat = d4.transpose(0, 2, 3, 1).reshape(-1, len(p["w1"]))
    g |= {"w1": (flat.T @ seen1.reshape(len(flat), -1)).reshape(p["w1"].shape), "b1": flat.sum(0)}
    return loss, g


def train(images: Array, classes: Array, epochs: int, seed: int) -> dict[str, Array]:
    """Adam on batches of 64."""
    random = np.random.default_rng(seed)
    shapes = {"w1": (6, 1, 5, 5), "w2": (16, 6, 5, 5), "w3": (120, 400), "w4": (84, 120), "w5": (10, 84)}
    p = {n: (random.normal(size=s) * np.sqrt(2 / np.prod(s[1:]))).astype(F) for n, s in shapes.items()}
    p |= {f"b{n[1]}": np.zeros(s[0], F) for n, s in shapes.items()}
    m, v = ({n: np.zeros_like(x) for n, x in p.items()} for _ in range(2))
    turn = 0
    for epoch in range(epochs):
        losses = []
        order = random.permutation(len(images))
        for start in range(0, len(order), 64):
            some = order[start : start + 64]
            loss, g = step(p, images[some], classes[some])
            losses.append(loss)
            turn += 1
            for n in p:
                m[n] = 0.9 * m[n] + 0.1 * g[n]
                v[n] = 0.999 * v[n] + 0.001 * g[n] ** 2
                p[n] -= (1e-3 * (m[n] / (1 - 0.9**turn)) / (np.sqrt(v[n] / (1 - 0.999**turn)) + 1e-8)).astype(F)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}", flush=True)
    return p


def main() -> None:
    """Train and write the file."""
    import lenet  # of the examples
    from sklearn.datasets import load_digits  # type: ignore[import-not-found]  # only for this tool

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    digits = load_digits()
    small, classes = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    order = np.random.default_rng(7).permutation(len(small))
    held, rest = order[:360], order[360:]
    p = train(lenet.upsampled(small[rest]), classes[rest], options.epochs, seed=1)
    stored: dict[str, Any] = {n: v.astype(np.float16) for n, v in p.items()}
    weights = {n: v.astype(F) for n, v in stored.items()}
    reached = np.zeros(4)
    for some in np.array_split(lenet.upsampled(small[rest]), 16):
        layers = lenet.reference(weights, some)
        reached = np.maximum(reached, [float(np.abs(x).max()) for x in layers[:4]])
    stored |= {"largest": reached.astype(F), "digits": small[held], "classes": classes[held]}
    found = lenet.reference(weights, lenet.upsampled(small[held]))[-1].argmax(1)
    print(f"{(found == classes[held]).mean():.4f} of {len(held)} held-out images right")
    np.savez_compressed(ROOT / "examples" / "lenet.npz", **stored)


if __name__ == "__main__":
    main()
