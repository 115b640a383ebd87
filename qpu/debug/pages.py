"""Pages of traces and profiles: HTML with style, scripts and data inside, so that they load nothing.

Their parts are the files in `assets`. The data is JSON in a script element; everything shown is set as text.
"""

from __future__ import annotations

import json
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

__all__ = ["frame", "page"]


@cache
def _asset(name: str) -> str:
    return files("qpu.debug").joinpath("assets", name).read_text(encoding="utf-8")


def page(title: str, kind: str, data: Any) -> str:
    """A page. kind: ``trace`` or ``profile``. data: for JSON."""
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>\n{_asset('common.css')}{_asset(f'{kind}.css')}</style></head>\n<body>{_asset(f'{kind}.html')}"
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>\n{_asset('common.js')}{_asset(f'{kind}.js')}</script></body></html>\n"
    )


def frame(text: str, height: int) -> str:
    """A page inside of another one, such as a notebook: its style and its names are its own. height: pixels."""
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{escape(text)}"></iframe>'
