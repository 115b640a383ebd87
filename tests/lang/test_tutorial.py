"""The tutorial's code on each emulated board: what the page promises for one (`tests/test_docs.py`) holds for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.test_docs import DOCS, Runner, blocks


@pytest.mark.parametrize("board", ["pi3", "pi4"])
@pytest.mark.parametrize("page", ["tutorials/0-first-kernel.md", "lang.md"])
def test_every_block_on_every_board(board: str, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPU_EMU_ENGINE", "reference")
    runner = Runner(tmp_path)
    ran = 0
    for block in blocks(DOCS / page):
        if block.language in ("python", "output"):
            code = block.code.replace('"pi5"', f'"{board}"')
            runner.run(replace(block, code=code))
            ran += block.language == "python"
    assert ran > 0
