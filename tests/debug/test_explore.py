"""Tests of the explorer's page; in a browser see `test_browser`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qpu.__main__ import main
from qpu.debug.explore import explore
from tests.debug.test_profile import Tags
from tests.lang import ten_kernels


def test_lines_are_linked_in_every_column() -> None:
    page = explore([ten_kernels.saxpy])
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.addresses and "http" not in page
    columns = page.split("<section>")[1:]
    assert len(columns) == 5 and ["source" in columns[0], "operations" in columns[1]] == [True, True]
    found = re.search(r'data-line="(\d+)">    y\[i\] = a \* x\[i\] \+ y\[i\]', columns[0])
    assert found is not None
    assert all(f'data-line="{found[1]}"' in column for column in columns)
    for column, words in zip(columns[2:], ("fmul", "tmua", "tmua"), strict=True):
        assert words in column
    assert "VideoCore IV" in columns[2] and "V3D 4.2" in columns[3] and "V3D 7.1" in columns[4]
    assert columns[1].count("store") >= 1


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "one.py", tmp_path / "page.html"
    file.write_text(
        "import qpu\nfrom qpu.lang import Grid, In, Out, f32\n\n\n@qpu.kernel\n"
        "def twice(k: Grid, x: In[f32], y: Out[f32]) -> None:\n    i = k.index(y.size)\n    y[i] = 2.0 * x[i]\n"
    )
    assert main(["explore", str(file), "-o", str(out)]) == 0
    assert "<h2>twice</h2>" in out.read_text() and 'data-line="8"' in out.read_text()
    assert main(["explore", str(tmp_path / "none.py")]) == 2
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    assert main(["explore", str(empty), "-o", str(out)]) == 2
    assert "defines no kernel" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["explore"], ["debug"]])
def test_what_a_users_file_raises_begins_at_its_own_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    file = tmp_path / "mine.py"
    for text, last in (
        ("def f():\n    return 1 / 0\nf()\n", "ZeroDivisionError: division by zero"),
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("import qpu\nqpu.open_device('pi9')\n", "  help: write the board as in pi5"),
    ):
        file.write_text(text)
        with pytest.raises(SystemExit, match="1"):
            main([*command, str(file)])
        lines = capsys.readouterr().err.splitlines()
        assert lines[1].startswith(f'  File "{file}"') and last in lines[-1]


def test_a_file_that_ends_the_interpreter_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise SystemExit(0)\n")
    assert main(["explore", str(file)]) == 2
    assert "ended by sys.exit(0) while it was imported\n  help: put" in capsys.readouterr().err
