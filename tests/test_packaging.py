"""Tests of the packaging files: pinned versions, the lock file with hashes, groups and extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def names(requirements: list[Any]) -> set[str]:
    """Names of packages; groups that are included by name are left out."""
    return {re.match(r"[A-Za-z0-9-]+", r)[0] for r in requirements if isinstance(r, str)}  # type: ignore[index]


def pinned() -> dict[str, str]:
    return dict(pin.split("==") for pin in PROJECT["tool"]["uv"]["constraint-dependencies"])


def test_the_lock_file_agrees_with_the_constraints() -> None:
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^\s\\;]+)", LOCK, re.M))
    pins = pinned()
    assert {name: pins.get(name) for name in locked} == locked
    groups = PROJECT["dependency-groups"]
    wanted = names(PROJECT["project"]["dependencies"])
    wanted = wanted.union(*(names(groups[g]) for g in PROJECT["tool"]["uv"]["default-groups"]))
    assert wanted <= set(locked)


def test_the_lock_file_has_hashes_and_no_addresses() -> None:
    packages = re.split(r"(?m)^(?=[a-z0-9-]+==)", LOCK)[1:]
    assert len(packages) > 10
    for package in packages:
        assert "--hash=sha256:" in package, package
    assert "://" not in LOCK and "index-url" not in LOCK


def test_versions_of_all_groups_are_pinned() -> None:
    for group in PROJECT["dependency-groups"].values():
        assert names(group) - set(PROJECT["tool"]["uv"]["sources"]) <= set(pinned())


def test_every_extra_of_the_wheel_is_on_an_index() -> None:
    sources = set(PROJECT["tool"]["uv"]["sources"])
    for extra in PROJECT["project"]["optional-dependencies"].values():
        assert not names(extra) & sources


def test_a_first_run_installs_only_what_runs_and_tests() -> None:
    groups = PROJECT["tool"]["uv"]["default-groups"]
    installed = set().union(*(names(PROJECT["dependency-groups"][g]) for g in groups))
    assert installed == {"hypothesis", "pytest", "pytest-xdist", "llvmlite", "tqdm"}
