"""The functions of nose.tools that tests of old libraries use, for pytest: nose itself does not run on Python 3.10+."""

from __future__ import annotations

import functools
import unittest
from collections.abc import Callable
from typing import Any

__all__ = ["eq_", "nottest", "ok_", "raises"]

_case = unittest.TestCase()


def ok_(expr: Any, msg: str | None = None) -> None:
    """Assert that `expr` is true."""
    if not expr:
        raise AssertionError(msg)


def eq_(a: Any, b: Any, msg: str | None = None) -> None:
    """Assert that two values are equal."""
    if not a == b:
        raise AssertionError(msg or f"{a!r} != {b!r}")


def raises(*kinds: type[BaseException]) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """A decorator: the test must raise one of `kinds`."""

    def decorate(test: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(test)
        def call(*args: Any, **named: Any) -> None:
            try:
                test(*args, **named)
            except kinds:
                return
            raise AssertionError(f"{test.__name__} did not raise {' or '.join(k.__name__ for k in kinds)}")

        return call

    return decorate


def nottest(function: Any) -> Any:
    """Mark a function as no test."""
    function.__test__ = False
    return function


def __getattr__(name: str) -> Any:
    """assert_equal and the like: the methods of unittest.TestCase under their old names."""
    first, *rest = name.split("_")
    method = getattr(_case, first + "".join(word.capitalize() for word in rest), None)
    if method is None or first != "assert":
        raise AttributeError(name)
    return method
