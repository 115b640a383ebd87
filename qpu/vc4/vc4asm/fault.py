"""What goes wrong while text is assembled: a rule, a sentence and a position in the line."""

from __future__ import annotations

__all__ = ["Fault", "Note"]


class Fault(Exception):
    """An error at `pos` (from 0) of the line being assembled; the engine turns it into a located diagnostic."""

    def __init__(
        self, rule: str, message: str, pos: int = 0, *, allowed: str | None = None, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.pos = pos
        self.allowed = allowed
        self.help = help

    def shifted(self, offset: int) -> Fault:
        """The same fault, `offset` characters further right."""
        return Fault(self.rule, self.message, self.pos + offset, allowed=self.allowed, help=self.help)


class Note:
    """A warning at `pos` (from 0) of the text of operation number `operation` of the line."""

    __slots__ = ("help", "message", "operation", "pos", "rule")

    def __init__(self, rule: str, message: str, pos: int = 0, help: str | None = None, operation: int = 0) -> None:
        self.rule = rule
        self.message = message
        self.pos = pos
        self.help = help
        self.operation = operation
