"""Test that every citation of the hardware references in code and docs names an existing section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HARDWARE = ROOT / "docs" / "hardware"
PAGES = ("vc4", "v3d", "drivers")
FOLDERS = ("qpu", "docs", "examples", "tests", "tools", "benchmarks")
SECTION = re.compile(r"^#+ (\d+(?:\.\d+)?)\.? ", re.M)
NUMBERS = r"\d+(?:\.\d+)?(?:(?:,| and| to| or|;) \d+(?:\.\d+)?(?![\w.]*\.md))*"
CITATION = re.compile(rf"(?<![\w/-])(?:docs/hardware/|hardware/)?(\w+)\.md(?:,? sections?)? ({NUMBERS})")
# Names of documents that are not in the repository: nothing may cite them.
OTHER = re.compile(r"(?<![\w/`.-])(?:product|architecture|emulator|style|sgemm)\.md")


def sections(page: str) -> set[str]:
    """Numbers of the page's sections."""
    return set(SECTION.findall((HARDWARE / f"{page}.md").read_text()))


def sources() -> list[Path]:
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in {".py", ".md", ".ipynb"}]
    return sorted(p for p in found if not {"_build", "api"} & set(p.parts) and p != Path(__file__))


def citations(text: str) -> list[tuple[str, str, int]]:
    """Page, section and line of every citation."""
    found = []
    for match in CITATION.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        found += [(match[1], number, line) for number in re.findall(r"\d+(?:\.\d+)?", match[2])]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_sections_are_numbered_in_order(page: str) -> None:
    numbers = [tuple(map(int, n.split("."))) for n in SECTION.findall((HARDWARE / f"{page}.md").read_text())]
    assert len(numbers) > 8 and numbers == sorted(set(numbers))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_citation_names_a_section(path: Path) -> None:
    text = path.read_text()
    for page, number, line in citations(text):
        assert page in PAGES, f"{path}:{line}: {page}.md is not a hardware reference"
        assert number in sections(page), f"{path}:{line}: {page}.md has no section {number}"
    assert not OTHER.search(text), f"{path}: names a document that is not in the repository"


def test_citations_are_found() -> None:
    text = "(vc4.md 14.3)\nSource: drivers.md sections 1.3 and 3, v3d.md 9.4; docs/hardware/v3d.md 11"
    assert citations(text) == [
        ("vc4", "14.3", 1),
        ("drivers", "1.3", 2),
        ("drivers", "3", 2),
        ("v3d", "9.4", 2),
        ("v3d", "11", 2),
    ]
    cited = sum(len(citations(path.read_text())) for path in sources() if "qpu" in path.parts)
    assert cited > 60
