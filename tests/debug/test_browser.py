"""Tests of the pages in a real browser: headless Chromium of the distribution, without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qpu
from qpu import v3d
from qpu.debug.explore import explore
from tests.debug.test_debugger import poly
from tests.limits import HUNG_S
from tests.test_bounds import copy16

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]

_ERRORS = "<script>addEventListener('error', (e) => { document.title = 'error ' + e.message; });</script>"


def visited(tmp_path: Path, page: str, script: str) -> dict[str, Any]:
    """What a script in a page returns, after the page's own scripts have run. Errors of any script are failures."""
    asked = f"<script>document.body.dataset.found = JSON.stringify((() => {{ {script} }})());</script>"
    path = tmp_path / "page.html"
    path.write_text(page.replace("<head>", f"<head>{_ERRORS}", 1).replace("</body>", f"{asked}</body>", 1))
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1200,800",
        f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, timeout=HUNG_S, check=True)
    assert "<title>error" not in ran.stdout, ran.stdout[:500]
    found = re.search(r'data-found="([^"]*)"', ran.stdout)
    assert found is not None, ran.stdout[:2000]
    answer: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answer


def test_the_slider_of_a_trace(tmp_path: Path) -> None:
    """Moving it shows the values of that step; threads and forms can be chosen; a click goes to an instruction."""
    with qpu.open_device("pi5") as gpu:
        x, y = gpu.array(np.arange(100, dtype=np.float32)), gpu.zeros(100)
        trace = poly.trace(2.0, 3, x, y)
    seen = visited(
        tmp_path,
        trace.html(),
        """
        const out = {}, slider = $("slider"), text = (id) => $(id).innerText;
        const moved = (e, kind) => e.dispatchEvent(new Event(kind)), page = document.documentElement;
        out.begin = text("variables"); out.sums = [];
        for (let k = 0; k <= +slider.max; k++) {
          slider.value = k; moved(slider, "input");
          const sums = text("variables").split("\\n").find((row) => row.startsWith("s "));
          if (sums && sums !== out.sums[out.sums.length - 1]) out.sums.push(sums);
        }
        out.end = text("variables"); out.where = text("where"); out.registers = text("registers");
        $("form").value = "x"; moved($("form"), "change"); out.hex = text("registers");
        $("first").click(); const row = codes[codes.length - 1]; row.click();
        out.marked = document.querySelector("#code .here").innerText; out.last = row.innerText;
        $("thread").value = 1; moved($("thread"), "change"); out.threads = $("thread").options.length;
        slider.value = 10; moved(slider, "input"); $("next").click(); $("next").click(); $("back").click();
        out.step = text("where"); out.source = document.querySelectorAll("#source .here").length;
        out.wide = page.scrollWidth <= innerWidth && page.scrollHeight <= innerHeight;
        return out;""",
    )
    t = 2 * np.arange(100)
    want = (3 * t * t + 3 * t).tolist()
    assert "s " not in seen["begin"] and "a  2  (argument)" in seen["begin"]
    sums = [list(map(int, row.split()[1:])) for row in seen["sums"]]
    assert sums.count(want[:16]) == 1 and sums[-1][:4] == want[96:] and seen["sums"][-1] in seen["end"]
    assert "rf" in seen["registers"] and "0x" not in seen["registers"] and seen["hex"].count("0x") > 16
    assert seen["marked"] == seen["last"] and seen["threads"] == 4 and seen["step"].startswith("step 12 of")
    assert seen["source"] == 1 and seen["wide"]
    steps = re.fullmatch(r"step (\d+) of (\d+)", seen["where"])
    assert steps is not None and steps[1] == steps[2]


def test_a_profile_shows_registers_of_what_is_pointed_at(tmp_path: Path) -> None:
    with qpu.open_device("pi4") as gpu, qpu.profile() as found:
        x, y = gpu.zeros(16, np.uint32), gpu.zeros(16, np.uint32)
        gpu.run(qpu.assemble(copy16, isa=gpu.isa), [x, y], v3d.Dispatch(workgroups=3))
    seen = visited(
        tmp_path,
        found.html(),
        """
        const out = {bars: document.querySelectorAll("rect").length, labels: $("svg").textContent};
        const at = new Event("mouseenter"), bar = document.querySelector("rect");
        const n = D.registers.findIndex((r) => r.some(([, v]) => Array.isArray(v)));
        codes[n].dispatchEvent(at); out.what = $("what").innerText; out.registers = $("registers").innerText;
        out.lit = document.querySelectorAll("#source .lit").length;
        bar.dispatchEvent(at); out.bar = $("what").innerText; out.more = $("registers").innerText;
        const before = $("svg").clientWidth; $("zoom").value = 2; $("zoom").dispatchEvent(new Event("input"));
        out.zoomed = $("svg").clientWidth / before; out.head = $("head").innerText;
        return out;""",
    )
    assert seen["bars"] == len(found.spans) and "QPU 2.0" in seen["labels"]
    assert "when it was executed first" in seen["what"] and " 0  1  2  3 " in seen["registers"] and seen["lit"] == 1
    assert seen["bar"].startswith("QPU 0.0, clocks 0 to") and "as float" in seen["more"] and seen["zoomed"] > 2
    assert "3 launches" not in seen["head"] and "bytes: TMU" in seen["head"]


def test_lines_of_the_explorer_light_up_together(tmp_path: Path) -> None:
    seen = visited(
        tmp_path,
        explore([poly]),
        """
        const rows = [...document.querySelectorAll("li[data-line]")];
        const row = rows.find((r) => r.textContent.includes("s += u * t"));
        row.dispatchEvent(new Event("mouseenter"));
        const lit = [...document.querySelectorAll("li.lit")], out = {};
        out.columns = new Set(lit.map((r) => r.closest("section"))).size;
        out.colours = new Set(lit.map((r) => getComputedStyle(r).backgroundColor)).size; out.rows = lit.length;
        row.dispatchEvent(new Event("mouseleave")); out.left = document.querySelectorAll("li.lit").length;
        return out;""",
    )
    assert seen["columns"] == 5 and seen["colours"] == 1 and seen["rows"] > 5 and seen["left"] == 0


def test_a_trace_works_inside_of_a_notebook(tmp_path: Path) -> None:
    """The display is a frame that may run scripts and nothing else; its page is complete."""
    with qpu.open_device("pi3") as gpu:
        trace = gpu.trace(qpu.assemble(copy16, isa=gpu.isa), [gpu.zeros(16), gpu.zeros(16)])
    seen = visited(
        tmp_path,
        f"<html><head></head><body>{trace._repr_html_()}</body></html>",
        """
        const frame = document.querySelector("iframe"), parser = new DOMParser();
        const inner = parser.parseFromString(frame.srcdoc, "text/html");
        return {sandbox: frame.getAttribute("sandbox"), slider: inner.querySelectorAll("#slider").length,
          height: frame.clientHeight};""",
    )
    assert seen == {"sandbox": "allow-scripts", "slider": 1, "height": 560}
