"""Errors (`Fault`) and warnings (`Note`) of the text assembler: rule, message, position in the line, and help."""

from __future__ import annotations

__all__ = ["Fault", "Note"]

# Help by rule, for faults without help of their own.
_HELP = {
    "argument-count": "give as many arguments as its definition has parameters",
    "assertion": "use arguments that the assertion allows",
    "back": "put the block after more instructions, or pad the data with .align 8",
    "block-start": "remove the directive, or open the block",
    "branch-alignment": "use a multiple of 8, the size of an instruction",
    "branch-condition": "use a condition that starts with .all or .any",
    "branch-destination": "write the link register alone, or - for none",
    "branch-setf": "use an odd register, or set the flags in another instruction",
    "branch-target": "write a label, a number of bytes, one of ra0..ra31, or a register and one of the others",
    "clone": "start at a label of an instruction",
    "destination": "write to a register, or to - for nothing",
    "directive-name": "a name consists of letters, digits and _, and does not start with a digit",
    "division-by-zero": "test the divisor with .if first",
    "extension": "write the name of an extension, for instance .setf",
    "extension-place": "write it where the language reference has it: on the operation, the destination or a source",
    "float-range": "use a number below 3.4e38",
    "function-line": "use a macro instead of a function",
    "global": "write .global :name, or .global name, value",
    "global-twice": "use another name",
    "include": "name a file in the include path (-I, include_path=)",
    "label-export": "give the label a name that starts with a letter",
    "label-operand": "use it in a branch, or take the difference of two labels",
    "load-immediate-full": "write it in an instruction of its own",
    "math-domain": "use an operand for which the result exists",
    "missing-operand": "write a value",
    "not-readable": "read another register",
    "not-writable": "write to another register",
    "number": "write a decimal number, 0x and hexadecimal digits, or 0b and binary digits",
    "operand-count": "separate operands by commas",
    "pack-file-a": "write to one of ra0..ra31",
    "pack-mul-only": "use a MUL operation, for instance mov or fmul",
    "parameter-twice": "give the parameters different names",
    "per-element": "write 16 values of -2..1 or of 0..3",
    "predicate": "ask isRegister, isAccu, isConstant or isSmallImmd instead",
    "recursion": "use fewer levels",
    "register-range": "stay within the registers of that kind",
    "rotate-destination": "leave the rotation out",
    "rotate-quad": "copy the value to one of r0..r3 to rotate it over all lanes",
    "rotate-r5": "leave the rotation out, or copy r5 to one of r0..r3",
    "rotate-twice": "rotate in two instructions",
    "rotation": "rotate r0..r3, r4 or a register of file A by 0..15 or by r5",
    "semaphore": "write a number 0..15",
    "syntax": "see the language reference",
    "trailing-text": "remove it, or start a comment with #",
    "unbalanced": "close the parenthesis or bracket",
    "undefined-name": "define it with .set",
    "unknown-instruction": "see the language reference for the instructions",
    "unpack-source": "unpack one of ra0..ra31, or r4",
    "unpack-type": "leave the last letter of the extension out",
    "unset": "remove the line",
    "value-range": "use a value in the allowed range",
    "value-type": "use a value of the required type",
}


class Fault(Exception):
    """An error at `pos` (from 0) of the current line; `Report` makes a diagnostic with a location of it."""

    def __init__(
        self, rule: str, message: str, pos: int = 0, *, allowed: str | None = None, help: str | None = None
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.pos = pos
        self.allowed = allowed
        self.help = help or _HELP.get(rule)

    def shifted(self, offset: int) -> Fault:
        """The same fault, `offset` characters further right."""
        return self.at(self.pos + offset)

    def at(self, pos: int) -> Fault:
        """The same fault at `pos`."""
        return Fault(self.rule, self.message, pos, allowed=self.allowed, help=self.help)


class Note:
    """A warning at `pos` (from 0) of the text of operation number `operation` of the line."""

    __slots__ = ("help", "message", "operation", "pos", "rule")

    def __init__(self, rule: str, message: str, pos: int = 0, help: str | None = None, operation: int = 0) -> None:
        self.rule = rule
        self.message = message
        self.pos = pos
        self.help = help
        self.operation = operation
