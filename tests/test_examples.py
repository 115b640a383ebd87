"""Tests of every example as a user runs it, on a board of each generation: results, exit status, errors in one line."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu.buffers import Buffer
from qpu.lang import entry
from qpu.lang.compiled import Compiled
from tests.limits import HUNG_S

EXAMPLES = Path(__file__).parent.parent / "examples"
KEYS = {"example", "device", "isa", "emulated", "n", "seconds", "total_seconds", "instructions", "max_abs_error", "ok"}
ALL = [("pi3", "vc4"), ("pi4", "v3d42"), ("pi5", "v3d71")]


class Run:
    """Runs an example in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, name: str, *arguments: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        path = EXAMPLES / f"{name}.py"
        self.monkeypatch.setattr(sys, "argv", [path.name, *arguments])
        self.monkeypatch.syspath_prepend(str(EXAMPLES))
        self.monkeypatch.syspath_prepend(str(path.parent))
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            runpy.run_path(str(path), run_name="__main__")
        assert isinstance(end.value.code, int)
        out, err = self.capsys.readouterr()
        return end.value.code, out, err

    def rows(self, name: str, *arguments: str) -> list[dict[str, Any]]:
        """The JSON lines of a run that must succeed."""
        status, out, err = self(name, *arguments, "--json")
        assert (status, err) == (0, ""), (out, err)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    true, tell = qpu.assemble, entry._tell

    def checked(*args: Any, **options: Any) -> qpu.Program:
        program = true(*args, **options)
        assert program.check() == []  # not a warning either: examples are copied
        return program

    def told(compiled: Compiled) -> None:
        assert compiled.program.check() == []
        tell(compiled)

    monkeypatch.setattr(qpu, "assemble", checked)
    monkeypatch.setattr(entry, "_tell", told)
    return Run(monkeypatch, capsys)


def grey(path: Path) -> Any:
    """The grey values of a PNG file, by the examples' own reader."""
    return importlib.import_module("_png").read_grey(path)


def small(tmp_path: Path, shape: tuple[int, int]) -> str:
    """The path of a picture of noise."""
    path = tmp_path / f"noise-{shape[0]}-{shape[1]}.png"
    sys.path.insert(0, str(EXAMPLES))
    try:
        write = importlib.import_module("_png").write
    finally:
        sys.path.remove(str(EXAMPLES))
    write(path, np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    return str(path)


PICTURES = ("mandelbrot", "spectrogram", "gaussian_blur", "sobel", "photograph")  # the last three of photographs
SIZED = ("hello_world", "memset", "scopy", "saxpy", "summation", "parallel_add", "parallel_mul", "soft_threshold",
         "dot", "prefix_sum", "histogram")  # fmt: skip
ASSEMBLY = ("hello_world", "memset", "scopy", "saxpy", "summation", "mandelbrot", "gaussian_blur", "sobel")


@pytest.mark.parametrize("n", [1, 1605])
@pytest.mark.parametrize("name", SIZED)
def test_vectors_of_any_length(run: Run, name: str, n: int) -> None:
    rows = run.rows(name, "--device", "all", "--n", str(n))
    assert [(r["device"], r["isa"]) for r in rows] == ALL
    for row in rows:
        assert set(row) >= KEYS
        assert (row["example"], row["n"], row["ok"], row["emulated"]) == (name, n, True, True)
        assert row["seconds"] > 0 and row["total_seconds"] > row["seconds"]


@pytest.mark.parametrize("device", ["pi0", "pi5,slices=1", "pi5,slices=3", "pi5,rev=10"])
@pytest.mark.parametrize("name", ["saxpy", "summation"])
def test_other_numbers_of_qpus(run: Run, name: str, device: str) -> None:
    (row,) = run.rows(name, "--device", device, "--n", "4999")
    assert row["ok"]


@pytest.mark.parametrize(
    ("name", "n"), [("blur_bytes", 37), ("matrix_tiles", 21), ("fft", 64)]
)  # fmt: skip
def test_other_sizes(run: Run, name: str, n: int) -> None:
    rows = run.rows(name, "--device", "all", "--n", str(n))
    assert [(r["device"], r["isa"], r["n"], r["ok"]) for r in rows] == [(*board, n, True) for board in ALL]


@pytest.mark.parametrize("name", ASSEMBLY)
def test_assembly_computes_the_same(run: Run, name: str, tmp_path: Path) -> None:
    options = ("--n", "67")
    if name in PICTURES:
        size = ("--width", "37", "--height", "9", "--steps", "30")
        options = size if name == "mandelbrot" else ("--input", small(tmp_path, (9, 37)))
    rows = [run.rows(at + name, "--device", "all", *options) for at in ("", "assembly/")]
    assert [(r["device"], r["isa"], r["ok"]) for r in rows[1]] == [(*board, True) for board in ALL]
    for kernel, assembly in zip(*rows, strict=True):
        assert set(kernel) == set(assembly) >= KEYS


def test_payload(run: Run) -> None:
    rows = run.rows("payload", "--device", "all")
    assert all(set(r) >= KEYS and r["ok"] for r in rows)
    assert rows[0]["lanes"] == list(range(16)) and len(rows[0]["qpu_numbers"]) == 12
    assert rows[1]["workgroups"][:4] == [[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]]
    assert rows[2]["local"] == list(range(16))


def test_rotate_and_flags(run: Run) -> None:
    for row in run.rows("rotate_and_flags", "--device", "all"):
        assert set(row) >= KEYS and row["ok"]
        assert row["rotated"] == [13, 14, 15, *range(13)]
        assert row["mixed"][:6] == [13, 1, 15, 3, 1, 5]


def test_perf_counters(run: Run) -> None:
    for row in run.rows("perf_counters", "--device", "all"):
        assert set(row) >= KEYS and row["ok"]
        assert len(row["counters"]) >= 2 and all(value > 0 for value in row["counters"].values())


@pytest.mark.parametrize(("width", "height"), [(1, 1), (67, 33), (96, 64)])
def test_mandelbrot(run: Run, tmp_path: Path, width: int, height: int) -> None:
    size = ("--width", str(width), "--height", str(height), "--steps", "40")
    rows = run.rows("mandelbrot", "--device", "all", *size, "--output", str(tmp_path / "set.png"))
    assert [(r["device"], r["isa"]) for r in rows] == ALL
    pictures = []
    for row in rows:
        assert set(row) >= KEYS and row["ok"] and row["n"] == width * height
        assert row["differing"] <= 0.02 * width * height
        assert row["output"] == str(tmp_path / f"set-{row['device']}.png")
        pictures.append(grey(Path(row["output"])))
        assert pictures[-1].shape == (height, width)
    if width > 1:  # black inside, light around, dark far away
        assert all((p == 0).mean() > 0.1 and p.max() > 200 for p in pictures)


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("mandelbrot", "pi0"),
        ("mandelbrot", "pi5,slices=3"),
        ("sobel", "pi0"),
        ("sobel", "pi5,slices=1"),
        ("gaussian_blur", "pi5,rev=10"),
    ],
)
def test_pictures_on_other_boards(run: Run, name: str, device: str, tmp_path: Path) -> None:
    options = ("--width", "40", "--height", "9") if name == "mandelbrot" else ("--input", small(tmp_path, (9, 40)))
    (row,) = run.rows(name, "--device", device, *options)
    assert row["ok"] and row["n"] == 360 and "output" not in row


@pytest.mark.parametrize("shape", [(1, 1), (7, 33)])
@pytest.mark.parametrize("name", ["sobel", "gaussian_blur"])
def test_filters_of_any_shape(run: Run, name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    rows = run.rows(name, "--device", "all", "--input", small(tmp_path, shape))
    assert [(r["device"], r["isa"]) for r in rows] == ALL
    assert all(set(r) >= KEYS and r["ok"] for r in rows)
    assert all((r["height"], r["width"]) == shape for r in rows)


def test_sobel_of_the_photograph(run: Run, tmp_path: Path) -> None:
    (row,) = run.rows("sobel", "--device", "pi5", "--output", str(tmp_path / "edges.png"))
    assert row["ok"] and (row["width"], row["height"]) == (512, 512)
    edges = grey(tmp_path / "edges.png")
    assert edges[:100].mean() < 5 < 20 < edges[300:].mean()  # a clear sky, and grass


def test_blur_of_the_photograph(run: Run, tmp_path: Path) -> None:
    (row,) = run.rows("gaussian_blur", "--device", "pi4", "--sigma", "1", "--output", str(tmp_path / "soft.png"))
    assert row["ok"] and row["taps"] == 5
    soft, sharp = grey(tmp_path / "soft.png").astype(float), grey(EXAMPLES / "images" / "camera.png").astype(float)
    assert abs(soft.mean() - sharp.mean()) < 0.5  # as bright as before
    assert np.abs(np.diff(soft)).mean() < 0.7 * np.abs(np.diff(sharp)).mean()  # and smoother


@pytest.mark.parametrize(("sigma", "taps", "device"), [("0.3", 3, "pi3"), ("3", 15, "pi4"), ("2", 11, "pi5")])
def test_blur_of_any_width(run: Run, sigma: str, taps: int, device: str, tmp_path: Path) -> None:
    picture = small(tmp_path, (20, 30))
    (row,) = run.rows("gaussian_blur", "--device", device, "--sigma", sigma, "--input", picture)
    assert row["taps"] == taps and row["ok"]


def test_a_wrong_pixel_is_noticed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    rows = importlib.import_module("_rows")
    result, numpy = rows.RowProgram.result, Buffer.numpy

    def spoiled(true: Any) -> Any:
        def of(self: Any) -> Any:
            pixels = true(self)
            pixels[-1, -1] += 7
            return pixels

        return of

    monkeypatch.setattr(rows.RowProgram, "result", spoiled(result))
    monkeypatch.setattr(Buffer, "numpy", spoiled(numpy))
    for name in ("sobel", "gaussian_blur", "assembly/sobel", "assembly/gaussian_blur"):
        status, out, _ = run(name, "--device", "pi5", "--json", "--input", small(tmp_path, (5, 20)))
        assert status == 1 and json.loads(out)["ok"] is False


def test_spectrogram(run: Run, tmp_path: Path) -> None:
    size = ("--n", "900", "--size", "64", "--window", "hamming")
    (row,) = run.rows("spectrogram", "--device", "pi4", *size, "--output", str(tmp_path / "s.png"))
    assert set(row) >= KEYS and row["ok"] and (row["width"], row["height"]) == (53, 33)
    pixels = grey(Path(row["output"]))
    assert pixels.shape == (33, 53)
    strongest = 32 - pixels.argmax(0)  # the chirp, from a twentieth of the sampling rate upwards
    assert abs(strongest[1] - 3) <= 1 and 14 <= strongest[-2] <= 25


@pytest.mark.parametrize(("name", "device", "n"), [("clusters", "pi3", 20), ("power_iteration", "pi5", 17)])
def test_the_library(run: Run, name: str, device: str, n: int) -> None:
    (row,) = run.rows(name, "--device", device, "--n", str(n))
    assert set(row) >= KEYS and row["ok"] and row["n"] == n


def test_photograph(run: Run, tmp_path: Path) -> None:
    options = ("--input", small(tmp_path, (15, 40)), "--output", str(tmp_path / "p.png"))
    (row,) = run.rows("photograph", "--device", "pi4", *options)
    assert set(row) >= KEYS and row["ok"] and grey(Path(row["output"])).shape == (16, 80)


def test_mailbox_info(run: Run) -> None:
    for row in run.rows("mailbox_info", "--device", "all"):
        assert set(row) >= KEYS and row["ok"] and row["instructions"] == 0
        assert row["properties"]["clocks_hz"]["V3D"] == {"pi3": 400, "pi4": 500, "pi5": 910}[row["device"]] * 10**6
    status, out, err = run("mailbox_info", "--device", "pi3")
    assert (status, err) == (0, "") and "board revision" in out and "not of a board" in out


def test_gpu_clock(run: Run) -> None:
    rows = run.rows("gpu_clock", "--device", "all")
    assert [(r["device"], r["isa"]) for r in rows] == ALL
    for row in rows:
        assert set(row) >= KEYS and row["ok"] and row["time"] == "emulated"
        assert row["clock_hz"] == pytest.approx(row["nominal_hz"], rel=0.01)
    status, out, _ = run("gpu_clock", "--device", "pi4", "--loops", "2000")
    assert status == 0 and "shows the method, not a board" in out


def test_gpu_clock_without_counters(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: qpu.Device, *names: str) -> None:
        raise qpu.DriverError("event counters need root")

    monkeypatch.setattr(qpu.Device, "counters", refuse)
    status, out, err = run("gpu_clock", "--device", "pi3", "--json")
    row = json.loads(out)
    assert status == 0 and "event counters need root" in err and "instructions" in row["method"]
    assert row["clock_hz"] == pytest.approx(400e6, rel=0.01)


def test_deadbeef(run: Run) -> None:
    rows = run.rows("deadbeef", "--device", "all")
    assert [(r["device"], r["word"]) for r in rows] == [(d, "0xdeadbeef") for d, _ in ALL]
    assert all(set(r) >= KEYS and r["ok"] for r in rows)


@pytest.mark.parametrize("name", [*SIZED, "deadbeef", "payload", "rotate_and_flags"])
def test_people_read_what_was_measured(run: Run, name: str) -> None:
    status, out, err = run(name, "--device", "pi4")
    assert (status, err) == (0, "")
    assert "says nothing about a real board" in out and "ok" in out.split()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        *((name, ("--device", "pi5", "--n", n)) for name in SIZED for n in ("0", "-4", "many", "99999999999")),
        *((name, ("--device", "pi9")) for name in (*SIZED, "deadbeef")),
        ("memset", ("--device", "pi5", "--value", "0x100000000")),
        ("memset", ("--device", "pi5", "--value", "abc")),
        ("saxpy", ("--device", "pi5", "--alpha", "nan")),
        ("saxpy", ("--device", "pi3", "--n", "268435456")),
        ("assembly/saxpy", ("--device", "pi3", "--n", "268435456")),
        ("fft", ("--device", "pi3", "--n", "48")),
        ("perf_counters", ("--device", "pi5", "--counter", "beans")),
        *(("mandelbrot", ("--device", "pi5", *o)) for o in (("--width", "0"), ("--height", "-1"), ("--steps", "0"))),
        *((name, ("--output", "nowhere/picture.png")) for name in PICTURES),
        *((name, ("--input", "nowhere.png")) for name in PICTURES[2:]),
        *((name, ("--input", __file__)) for name in PICTURES[2:]),
        *(("gaussian_blur", ("--sigma", s)) for s in ("0", "-1", "4", "inf", "wide")),
        ("sobel", ("--gain", "0")),
        ("gpu_clock", ("--device", "pi5", "--loops", "0")),
        *(("sgemm", ("--device", "pi5", "--size", "8", *o)) for o in (("--seed", "-1"), ("--alpha", "nan"))),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(run: Run, name: str, arguments: tuple[str, ...]) -> None:
    status, out, err = run(name, *arguments)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1 and len(err) > 10
    assert "lambda" not in err and "Traceback" not in err


def test_differences_are_of_the_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    elementwise = importlib.import_module("_elementwise").Elementwise
    true = elementwise.result

    def spoiled(self: Any) -> Any:
        words = true(self).copy()
        words[5] -= 3
        return words

    monkeypatch.setattr(elementwise, "result", spoiled)
    status, out, _ = run("assembly/memset", "--device", "pi5", "--json")
    row = json.loads(out)
    assert status == 1 and (row["max_abs_error"], row["wrong"], row["ok"]) == (3.0, 1, False)


def test_loops_refuse_what_they_have_no_registers_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    loop = importlib.import_module("_elementwise").Elementwise
    x = np.zeros(16, np.float32)
    with qpu.open_device("pi5") as gpu:
        for inputs, scalars, out in (
            ([x] * 3, [], x),
            ([x], [1] * 5, x),
            ([x[:8]], [], x),
            ([x.astype(np.float64)], [], x),
            ([], [], x[:0]),
        ):
            with pytest.raises(qpu.errors.UsageError):
                loop(gpu, lambda *args: None, inputs, scalars, out)


STEMS = [p.stem for p in sorted(EXAMPLES.glob("*.py")) if not p.stem.startswith("_")]
SLOW = ("lenet", "clusters", "power_iteration", "photograph")  # test_lenet.py, test_the_library run samples


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] if n in SLOW else [])
                                  for n in (*STEMS, "assembly/memset", "assembly/sobel")])  # fmt: skip
def test_in_a_process_of_its_own(name: str, tmp_path: Path) -> None:
    """Examples run without modules that other tests imported, and write pictures to the current directory."""
    options = {
        "mandelbrot": ["--width", "20", "--height", "9"],
        "sgemm": ["--size", "20"],
        "spectrogram": ["--n", "100", "--size", "16"],
        **{key: ["--input", small(tmp_path, (9, 20))] for key in (*PICTURES[2:], "assembly/sobel")},
        "lenet": ["--images", "2"],
    }
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--device", "all", *options.get(name, [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=HUNG_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("EMULATED") == 3
    name = name.removeprefix("assembly/")
    made = {path.name for path in tmp_path.glob(f"{name}*.png")}
    assert made == ({f"{name}-{board}.png" for board, _ in ALL} if name in (*PICTURES, "lenet") else set())


def test_time_counts_from_the_start_of_the_process() -> None:
    code = (
        "import runpy, sys, time\n"
        "start = time.perf_counter()\n"
        "time.sleep(2)\n"
        "print(time.perf_counter() - start, file=sys.stderr)\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "sys.argv = ['deadbeef.py', '--device', 'pi5', '--json']\n"
        f"runpy.run_path({str(EXAMPLES / 'deadbeef.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=HUNG_S)
    if sys.platform == "linux":  # elsewhere it counts from the import of the module behind the examples
        assert json.loads(done.stdout)["total_seconds"] > float(done.stderr)


@pytest.mark.parametrize("module", ["numpy", "qpu", "ioctl_opt"])
def test_a_foreign_python_is_told_what_to_do(module: str) -> None:
    path = str(EXAMPLES / "hello_world.py")
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r}); sys.argv = [{path!r}, '--device', 'pi5']\n"
        f"runpy.run_path({path!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HUNG_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: no module {module!r} here; start it with: uv run {path}\n"


def test_ctrl_c_is_status_130_and_no_traceback() -> None:
    code = "import _common, time; _common.main(lambda: print('ready', flush=True) or time.sleep(60))"
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=HUNG_S)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_png_files_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    png = importlib.import_module("_png")
    pixels = np.random.default_rng(2).integers(0, 256, (13, 21, 3), dtype=np.uint8)
    png.write(tmp_path / "grey.png", pixels[:, :, 0])
    assert (png.read_grey(tmp_path / "grey.png") == pixels[:, :, 0]).all()
    png.write(tmp_path / "colour.png", pixels)
    luma = np.rint(pixels @ np.array([0.299, 0.587, 0.114]))
    assert (png.read_grey(tmp_path / "colour.png") == luma).all()
    damaged = bytearray((tmp_path / "grey.png").read_bytes())
    damaged[60] ^= 1
    (tmp_path / "damaged.png").write_bytes(damaged)
    with pytest.raises(qpu.errors.UsageError, match="checksum"):
        png.read_grey(tmp_path / "damaged.png")


def test_png_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filter of the format, undone against its definition."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    png = importlib.import_module("_png")
    pixels = np.random.default_rng(3).integers(0, 256, (5, 12)).astype(int)
    for channels in (1, 3):
        lines = np.zeros((5, 13), np.uint8)
        for y in range(5):
            lines[y, 0] = kind = y
            for x in range(12):
                a = pixels[y, x - channels] if x >= channels else 0
                b = pixels[y - 1, x] if y else 0
                c = pixels[y - 1, x - channels] if y and x >= channels else 0
                plane = min((a, b, c), key=lambda v, p=a + b - c: abs(p - v))  # type: ignore[misc]  # first of equals
                lines[y, 1 + x] = (pixels[y, x] - (0, a, b, (a + b) // 2, plane)[kind]) % 256
        assert (png._unfilter(lines, channels) == pixels).all()


def test_the_list_names_every_example_and_its_commands_parse(run: Run) -> None:
    text = (EXAMPLES / "README.md").read_text()
    files = [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("assembly/*.py")]
    programs = {str(path.relative_to(EXAMPLES)) for path in files if not path.name.startswith("_")}
    notebooks = {path.name for path in (EXAMPLES / "notebooks").glob("*.ipynb")}
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert links >= programs | {f"notebooks/{name}" for name in notebooks}
    assert all((EXAMPLES / link).exists() for link in links)
    commands = re.findall(r"`uv run examples/([\w/]+)\.py([^`]*)`", text)
    alike = {f"assembly/{name}.py" for name in ASSEMBLY if name != "hello_world"}  # as that one, or the kernel
    assert {f"{name}.py" for name, _ in commands} == programs - {"parallel_mul.py"} - alike
    for name, options in commands:
        _, out, _ = run(name, "--help")
        assert all(option in out for option in re.findall(r"--\w+", options))
