"""Sphinx configuration of the guide; README names the command that builds it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pygments.lexer import RegexLexer
from pygments.lexers import BashLexer, TextLexer
from pygments.token import Comment, Keyword, Name, Number, Punctuation, Text

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import qpu  # noqa: E402

project = "qpu"
author = "the qpu contributors"
copyright = "the qpu contributors, MIT licence"
version = release = qpu.__version__

extensions = ["myst_parser", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
nitpicky = True
# Types in signatures: names of the standard library and NumPy, and aliases. References in prose are all checked.
nitpick_ignore_regex = [("py:class", ".*")]
suppress_warnings = ["ref.python"]  # short names in signatures, such as Instr, that several modules have
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries = False

html_theme = "furo"
html_title = f"qpu {version}"
html_static_path = ["_static"]
html_css_files = ["qpu.css"]
html_search_scorer = str(Path(__file__).parent / "search_scores.js")
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"


class AssemblyLexer(RegexLexer):
    """Enough of the assembly languages to be pleasant to read."""

    name = "QPU assembly"
    tokens = {  # noqa: RUF012  # the base class wants it so
        "root": [
            (r"#.*?$", Comment),
            (r"(?m)^\s*\.\w+|:\w+|^\w+:", Name.Label),
            (r"\b(thrsw|ldunif\w*|ldtmu\w*|wrtmuc|thrend|sbwait)\b", Keyword.Type),
            (r"(?m)^(\s*)([a-z]\w*)", Keyword),
            (r";(\s*)([a-z]\w*)", Keyword),
            (r"-?\b(0x[0-9a-fA-F]+|[0-9]+(\.[0-9]+)?)\b", Number),
            (r"\b(rf|r|ra|rb)[0-9]+\b", Name.Variable),
            (r"[,;]", Punctuation),
            (r"\s+", Text),
            (r".", Text),
        ]
    }


def _write_api(app: Any) -> None:
    import gen_docs

    gen_docs.write_api(Path(app.srcdir) / "reference" / "api")


def setup(app: Any) -> None:
    """Languages of code blocks, and the API pages, which are written anew at each build."""
    for name in ("vc4", "v3d", "v3d42", "v3d71"):
        app.add_lexer(name, AssemblyLexer)
    app.add_lexer("pi-shell", BashLexer)
    app.add_lexer("pi-config", TextLexer)
    app.connect("builder-inited", _write_api)
