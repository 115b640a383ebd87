"""The debugger: step through a launch on an emulated board, look at lanes, set values, go back."""

from __future__ import annotations

import cmd
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qpu.buffers import Buffer, BufferView
from qpu.core.code import Code
from qpu.core.isa import Isa
from qpu.debug.expressions import FUNCTIONS, evaluate, names_in, number_in, shown, word_of
from qpu.debug.stepping import Before, Moment, Restart, Stepping
from qpu.debug.variables import Variables
from qpu.drivers.base import DeviceInfo, Job
from qpu.emu.engines import observed
from qpu.errors import QpuError, UsageError, counted
from qpu.program import toolkit
from qpu.runtime.jobs import OBSERVERS, JobObserver
from qpu.runtime.pool import MemoryPool

__all__ = ["Debugger", "Quit"]

U32: TypeAlias = NDArray[np.uint32]
_COMMANDS = 'write commands=["break 5", "continue"]'


class Quit(QpuError):
    """The user left the debugger before the launch had ended."""


@dataclass(slots=True)
class _Stop:
    """A breakpoint. at: instructions. condition: expression over registers, empty for none."""

    number: int
    at: Sequence[int]
    condition: str
    text: str


@dataclass(slots=True)
class _Watch:
    """An expression of registers and variables of the current thread, or a word of memory, whose changes stop."""

    number: int
    name: str
    address: int | None
    value: bytes


class Debugger(cmd.Cmd, JobObserver):
    """Commands like those of pdb, at an instruction of a launch. One thread is current: that of most commands.

    A context: launches of the block on emulated boards are stepped through, each from its first instruction. commands:
    instead of a terminal, one a line; after the last one launches run without stops. out: where output goes.
    Names of commands can be abbreviated as in pdb (s, n, c, b, p, l, v); an empty line repeats the last one.
    """

    prompt = "(qpu) "

    def __init__(
        self,
        commands: Iterable[str] | None = None,
        out: TextIO | None = None,
    ) -> None:
        if isinstance(commands, str) or not (commands is None or isinstance(commands, Iterable)):
            raise UsageError(f"commands = {commands!r}; allowed: a list of texts, None", help=_COMMANDS)
        if out is not None and not hasattr(out, "write"):
            raise UsageError(f"out = {out!r}; allowed: an open text file, None", help="such as io.StringIO()")
        super().__init__(stdin=sys.stdin, stdout=out or sys.stdout)
        # With a terminal on both ends, lines can be edited and found again.
        self.use_rawinput = commands is None and out is None and sys.stdin.isatty() and sys.stdout.isatty()
        self._program: Code = Code(Isa.V3D71, ())
        self._variables = Variables(self._program)
        self._arguments: Mapping[str, Any] = {}  # of a kernel's call
        self._script: Iterator[str] | None = None if commands is None else iter(commands)
        self._observed = observed(Stepping(self._begin, "the debugger"))
        self._stops: list[_Stop] = []
        self._watches: list[_Watch] = []
        self._next_number = 1
        self._focus: tuple[int, int] | None = None  # (QPU, thread); None: the first that executes
        self._mode = "step"  # step, next, continue, run (to `_target`), free
        self._line: object = None
        self._target = 0
        self._serial = 0  # instructions of all threads so far
        self._passed: dict[tuple[int, int], list[int]] = {}  # thread -> serial number of each of its instructions
        self._jumps: dict[tuple[int, int], deque[tuple[int, int]]] = {}
        self._last: dict[tuple[int, int], int] = {}
        self._moment: Moment | None = None
        self._row = 0
        self.launches = 0  # so far

    # -- events

    def _begin(self) -> Before:
        self.launches += 1
        self._serial = 0
        self._passed.clear()
        self._jumps.clear()
        self._last.clear()
        self._variables.begin()
        return self._before

    def _before(self, m: Moment) -> None:
        self._serial += 1
        index, threads = m.index, m.threads
        self._variables.before(m, threads)
        for t in threads:
            self._passed.setdefault(t, []).append(self._serial)
            last = self._last.get(t)
            if last is not None and index != last + 1:
                self._jumps.setdefault(t, deque(maxlen=16)).append((last, index))
            self._last[t] = index
        if self._mode == "free":
            return
        row = self._row_to_stop(m, index, threads)
        if row is None:
            return
        self._moment, self._row, self._focus = m, row, threads[row]
        self._where(m, threads[row])
        self._interact()

    def _row_to_stop(self, m: Moment, index: int, threads: list[tuple[int, int]]) -> int | None:
        if self._mode == "run":
            if self._serial < self._target or self._focus not in threads:
                return None
            self._mode = "step"
            return threads.index(self._focus)
        focus = self._focus if self._focus is not None else threads[0]
        if self._mode in ("step", "next") and focus in threads:
            line = self._source(index)
            if self._mode == "step" or (line is not None and line != self._line):
                return threads.index(focus)
        for stop in self._stops:
            if index not in stop.at:
                continue
            for row in range(len(threads)):
                if not stop.condition or self._holds(m, row, stop.condition):
                    self._say(f"breakpoint {stop.number}")
                    return row
        for watch in self._watches:
            if watch.address is not None:
                row = 0 if focus not in threads else threads.index(focus)
            elif focus in threads:
                row = threads.index(focus)
            else:
                continue
            value = self._content(m, row, watch)
            if value is not None and value != watch.value:
                watch.value = value
                self._say(f"{watch.name} changed")
                return row
        return None

    def _content(self, m: Moment, row: int, watch: _Watch) -> bytes | None:
        """What is watched; None while a variable has no value yet."""
        if watch.address is not None:
            return bytes(m.memory.view(watch.address, 4))
        try:
            return bytes(np.asarray(evaluate(watch.name, self._names(m, row, watch.name))).tobytes())
        except UsageError:
            return None

    def _holds(self, m: Moment, row: int, condition: str) -> bool:
        try:
            names = self._names(m, row, condition)
        except UsageError:  # a variable without a value yet
            return False
        try:
            return bool(np.any(np.asarray(evaluate(condition, names))))
        except UsageError as error:  # such as an index out of range: stop, and say so
            self._say(str(error))
            return True

    def _names(self, m: Moment, row: int, expression: str) -> dict[str, Any]:
        """The names of an expression that exist: variables before arguments before registers; %name is a register."""
        found: dict[str, Any] = {}
        variables = self._variables.of(m.threads[row])
        for name in names_in(expression):
            if name in variables:
                found[name] = variables[name]
            elif name in self._arguments:
                found[name] = _argument(m, self._arguments[name])
            elif name.removeprefix("%") in m.names:
                found[name] = m.get(row, name.removeprefix("%")).view(np.int32)
            elif name in self._variables.names:
                text = f"{name} has no value yet in QPU {m.threads[row][0]}.{m.threads[row][1]}"
                raise UsageError(text, help="it has one after its assignment")
        return found

    def _value(self, m: Moment, row: int, expression: str) -> object:
        try:
            return evaluate(expression, self._names(m, row, expression))
        except UsageError as error:
            self._say(str(error))
            return None

    def _interact(self) -> None:
        if self._script is None:
            self.cmdloop()
            return
        for line in self._script:
            if not isinstance(line, str):
                raise UsageError(f"a command is {line!r}; allowed: texts", help=_COMMANDS)
            self._say(f"{self.prompt}{line}")
            if self.onecmd(line):
                return
        self._mode = "free"

    # -- text

    def _say(self, text: str) -> None:
        self.stdout.write(text + "\n")

    def _source(self, index: int) -> object:
        loc = self._program.loc(index)
        return None if loc is None else (loc.file, loc.line)

    def _where(self, m: Moment, thread: tuple[int, int]) -> None:
        self._line = self._source(m.index)
        loc = self._program.loc(m.index)
        source = "" if loc is None else f"   # {loc.line}: {loc.source.strip()}"
        self._say(f"> QPU {thread[0]}.{thread[1]}  {m.index}: {m.text}{source}")

    def _refuse(self, found: str, allowed: str, help: str) -> None:
        self._say(f"{found}; allowed: {allowed}\n  help: {help}")

    def _alone(self, command: str, argument: str) -> bool:
        """Whether a command that takes nothing was given nothing; says what is wrong."""
        if argument.strip():
            self._refuse(f"{command} {argument.strip()}", f"`{command}` alone", f"see `help {command}`")
        return not argument.strip()

    # -- commands that continue

    def do_step(self, argument: str) -> bool:
        """step: execute one instruction of the current thread."""
        if not self._alone("step", argument):
            return False
        self._mode = "step"
        return True

    def do_next(self, argument: str) -> bool:
        """next: execute up to another source line of the current thread."""
        if not self._alone("next", argument):
            return False
        self._mode = "next"
        return True

    def do_continue(self, argument: str) -> bool:
        """continue: execute up to a breakpoint, a watched change, or the end."""
        if not self._alone("continue", argument):
            return False
        self._mode = "continue"
        return True

    def do_back(self, argument: str) -> bool:
        """back [N]: go back N instructions of the current thread (default 1), by executing the launch again."""
        assert self._focus is not None
        passed = self._passed[self._focus]
        count = number_in(argument.strip() or "1")
        if not count:
            self._refuse(f"back {argument}", "how many instructions, 1 or more", "write `back` or such as `back 3`")
            return False
        if len(passed) <= count:
            before = f"; the thread has executed {counted(len(passed) - 1, 'instruction')}" if len(passed) > 1 else ""
            self._say(f"{'this is the first instruction' if not before else f'back {count}: too far{before}'}")
            return False
        self._target, self._mode = passed[-1 - count], "run"
        raise Restart

    def do_quit(self, argument: str) -> bool:
        """quit: end the launch."""
        if not self._alone("quit", argument):
            return False
        message = "the debugger was left before the launch had ended"
        raise Quit(f"{message}\n  help: enter `continue` to run to the end")

    # -- stops

    def do_break(self, argument: str) -> None:
        """break [INSTRUCTION | LABEL | line N] [if EXPRESSION]: stop there, or list breakpoints. In expressions
        registers are 16 integers: `break 12 if any(rf3 > 7)`."""
        place, _, condition = argument.partition(" if ")
        if not place.strip():
            for stop in self._stops:
                self._say(f"{stop.number}: {stop.text}")
            return
        at = self._instructions(place.strip())
        if not at:
            hint = f" (for a line write `line {place}`)" if place.strip().isdecimal() else ""
            if place.startswith("line "):
                lines = {loc.line for loc in map(self._program.loc, range(len(self._program))) if loc is not None}
                hint = f"; lines with instructions: {', '.join(map(str, sorted(lines)))}"
            last = hint or f" (instructions: 0..{len(self._program) - 1})"
            self._say(f"{place}: neither an instruction nor a label nor a line of the program{last}")
            return
        if " if " in argument and not self._understood(condition):
            return
        self._stops.append(_Stop(self._next_number, at, condition.strip(), argument))
        many = "s" if len(at) > 1 else ""
        self._say(f"breakpoint {self._next_number} at instruction{many} {', '.join(map(str, at))}")
        self._next_number += 1

    def _instructions(self, place: str) -> list[int]:
        """Where a breakpoint stops: of a line the first instruction in each block, as compilers copy and mix lines."""
        if (number := number_in(place)) is not None:
            return [number] if number < len(self._program) else []
        if place in self._program.labels:
            return [self._program.labels[place]]
        found = re.fullmatch(r"line ([0-9]{1,18})", place)
        if found is None:
            return []
        starts, at, block = set(self._program.labels.values()), dict[int, int](), 0
        for n in range(len(self._program)):
            block += n in starts
            loc = self._program.loc(n)
            if loc is not None and loc.line == int(found[1]):
                at.setdefault(block, n)
        return list(at.values())

    def do_watch(self, argument: str) -> None:
        """watch EXPRESSION | ADDRESS: stop when it changes (of the current thread; 0x...: a word of memory)."""
        m = self._here
        address = None
        if re.fullmatch(r"0x[0-9a-fA-F]+", argument):
            address = int(argument, 16)
            if not m.memory.owns(address, 4):
                self._say(f"{argument} is outside of every buffer")
                return
        elif not self._understood(argument):
            return
        elif not names_in(argument) - {*FUNCTIONS}:
            help = "write such as `watch rf1`; a word of memory is such as `watch 0x1000`"
            self._refuse(f"watch {argument}, which never changes", "registers, variables, 0x and an address", help)
            return
        watch = _Watch(self._next_number, argument, address, b"")
        watch.value = self._content(m, self._row, watch) or b""
        self._watches.append(watch)
        self._say(f"watch {watch.number} of {argument}")
        self._next_number += 1

    def _understood(self, expression: str) -> bool:
        """Whether it is an expression of names that there are; says what is wrong."""
        try:
            unknown = sorted(n for n in names_in(expression) - {*FUNCTIONS} if not self._known(n))
        except UsageError as error:
            self._say(str(error))
            return False
        if unknown:
            self._say(f"{unknown[0]}: no such register or variable")
            return False
        try:
            names = self._names(self._here, self._row, expression)
        except UsageError:  # a variable without a value yet
            return True
        return self._evaluated(expression, names) is not None

    def _evaluated(self, expression: str, names: Mapping[str, Any]) -> object:
        """The value, or None; says what is wrong."""
        try:
            return evaluate(expression, names)
        except UsageError as error:
            self._say(str(error))
            return None

    def _known(self, name: str) -> bool:
        names = (*self._here.names, *self._variables.names, *self._arguments)
        return name in names or name.removeprefix("%") in self._here.names

    def do_delete(self, argument: str) -> None:
        """delete [NUMBER]: delete a breakpoint or a watch, or all."""
        number = argument.strip()
        there = [str(n) for n in (*(x.number for x in self._stops), *(x.number for x in self._watches))]
        if number and number not in there:
            found = f"delete {number}: neither a breakpoint nor a watch"
            self._refuse(found, ", ".join(there) or "none, as there is none", "`delete` alone deletes all")
            return
        self._stops = [x for x in self._stops if number and str(x.number) != number]
        self._watches = [x for x in self._watches if number and str(x.number) != number]

    # -- what is there

    @property
    def _here(self) -> Moment:
        assert self._moment is not None
        return self._moment

    def do_print(self, argument: str) -> None:
        """print [/d /f /x] EXPRESSION: of registers and variables, 16 lanes as integers, floats or hexadecimal."""
        form = ""
        found = re.match(r"/(\S*)\s*", argument)
        if found is not None:
            form, argument = found[1], argument[found.end() :]
            if form not in ("d", "f", "x"):
                self._refuse(f"print/{form}", "/d /f /x", "write such as `print/x rf1`")
                return
        value = self._value(self._here, self._row, argument)
        if value is None:
            return
        try:
            self._say(f"{argument.strip()} = {shown(value, form)}")
        except UsageError as error:
            self._say(str(error))

    def do_variables(self, argument: str) -> None:
        """variables: those of the kernel in the current thread, and the arguments of its call."""
        if not self._alone("variables", argument):
            return
        assert self._focus is not None
        for name, given in self._arguments.items():
            self._say(f"{name} = {shown(_argument(self._here, given), '')}   (argument)")
        values = self._variables.of(self._focus)
        for name in self._variables.names:
            self._say(f"{name} = {shown(values[name], '')}" if name in values else f"{name}: not assigned yet")
        if not self._variables.names:
            self._say("no variables: the program is not of a kernel, or its values are constants and indices")

    def do_x(self, argument: str) -> None:
        """x [/d /f /x] ADDRESS [COUNT]: words of memory."""
        form = r"(?:/([dfx])\s+)?(0x[0-9a-fA-F]{1,16}|[0-9]{1,18})(?:\s+([0-9]{1,9}))?"
        found = re.fullmatch(form, argument.strip())
        count = 0 if found is None else int(found[3] or 4)
        if found is None or not count:
            allowed = "perhaps /d, /f or /x, an address, and how many words, 1 or more"
            self._refuse(f"x {argument}".strip(), allowed, "write such as `x/f 0x1000 8`")
            return
        address = int(found[2], 16 if found[2].startswith("0x") else 10)
        if not self._here.memory.owns(address, 4 * count):
            self._say(f"0x{address:08x} and {counted(count, 'word')} are not inside one buffer")
            return
        data = bytes(self._here.memory.view(address, 4 * count))
        kind = {"d": np.int32, "f": np.float32, "x": np.uint32}[found[1] or "x"]
        words = np.frombuffer(data, kind).tolist()
        self._say(" ".join(f"{w:{ {'d': 'd', 'f': 'g', 'x': '#010x'}[found[1] or 'x'] }}" for w in words))

    def do_set(self, argument: str) -> None:
        """set REGISTER[LANE] = NUMBER: change all lanes of a register of the current thread, or one."""
        found = re.fullmatch(r"%?(\w+)(?:\[([^\]]*)\])?\s*=\s*(\S+)", argument)
        if found is None or found[1] not in self._here.names:
            if found is not None and self._known(found[1]):
                self._say(f"{found[1]} is a variable, whose register may hold another value by now: set a register")
                return
            what = f"set {argument}".strip() if found is None else f"set {argument}: {found[1]} is not a register"
            self._refuse(
                what, "a register, perhaps a lane in brackets, = and a number", "write such as `set rf1[3] = 5`"
            )
            return
        lane = None if found[2] is None else number_in(found[2].strip())
        if found[2] is not None and (lane is None or lane > 15):
            self._refuse(f"lane {found[2]}", "0..15", "write such as `set rf1[3] = 5`; without a lane all are set")
            return
        try:
            bits = word_of(found[3])
        except UsageError as error:
            self._say(str(error))
            return
        if found[1] in _FLAGS and bits > 1:
            self._refuse(f"flag {found[1]} = {found[3]}", "0 and 1", "a flag is one bit in each lane")
            return
        value = self._here.get(self._row, found[1])
        value[slice(None) if lane is None else lane] = bits
        self._here.put(self._row, found[1], value)

    def do_thread(self, argument: str) -> None:
        """thread [QPU.THREAD]: make another thread the current one, or list those that have begun."""
        if not argument:
            for each, index in sorted(self._last.items()):
                self._say(f"{'*' if each == self._focus else ' '} QPU {each[0]}.{each[1]} at instruction {index}")
            return
        qpu, _, thread = argument.partition(".")
        numbers = number_in(qpu), number_in(thread or "0")
        wanted = next((t for t in self._last if t == numbers), None)
        if wanted is None:
            begun = ", ".join(f"{q}.{t}" for q, t in sorted(self._last))
            self._refuse(f"{argument}: no such thread has begun", begun, "`thread` lists them")
            return
        self._focus = wanted
        threads = self._here.threads
        if wanted in threads:
            self._row = threads.index(wanted)
        else:
            self._say("it executes elsewhere: `step` stops at its next instruction")

    def do_where(self, argument: str) -> None:
        """where: the last branches of the current thread, oldest first."""
        if not self._alone("where", argument):
            return
        assert self._focus is not None
        for start, end in self._jumps.get(self._focus, ()):
            locs = [self._program.loc(n) for n in (start, end)]
            lines = "" if None in locs else "   # line " + " -> line ".join(str(x.line) for x in locs if x is not None)
            self._say(f"  {start} -> {end}{lines}")
        self._where(self._here, self._focus)

    def do_list(self, argument: str) -> None:
        """list: instructions around the current one, with source lines."""
        if not self._alone("list", argument):
            return
        here = self._here.index
        text = toolkit(self._program.isa).disassemble
        line = None
        for n in range(max(0, here - 4), min(len(self._program), here + 5)):
            loc = self._program.loc(n)
            if loc is not None and (loc.file, loc.line) != line:
                line = loc.file, loc.line
                self._say(f"      # {loc.line}: {loc.source.strip()}")
            self._say(f"{'->' if n == here else '  '} {n:>4}  {text(self._program.code[n])}")

    def default(self, line: str) -> None:
        """Abbreviations, and what is not a command."""
        word, _, rest = line.strip().partition(" ")
        base, slash, form = word.partition("/")
        short = {"s": "step", "n": "next", "c": "continue", "b": "break", "p": "print", "l": "list", "q": "quit",
                 "w": "where", "bt": "where", "d": "delete", "t": "thread",
                 "v": "variables", "print": "print", "x": "x"}  # fmt: skip
        if base in short:
            self._ends = bool(getattr(self, f"do_{short[base]}")(f"{slash}{form} {rest}".strip()))
        else:
            self._say(f"{word}: no such command; enter help")

    def onecmd(self, line: str) -> bool:
        """Execute a command; True when the launch continues."""
        self._ends = False
        found = super().onecmd(line)
        return bool(found) or self._ends

    def do_EOF(self, argument: str) -> bool:  # the name that `cmd` asks for
        """The end of the input: quit."""
        return self.do_quit(argument)

    def get_names(self) -> list[str]:
        """Commands that `help` lists."""
        return [name for name in super().get_names() if name != "do_EOF"]

    # -- use

    def called(self, arguments: Mapping[str, Any]) -> None:
        """See `qpu.runtime.jobs.JobObserver`."""
        self._arguments = {n: v for n, v in arguments.items() if isinstance(v, int | float | Buffer | BufferView)}

    def submitted(self, pool: MemoryPool, info: DeviceInfo, program: Code, job: Job) -> None:
        """A launch begins: see `qpu.runtime.jobs.JobObserver`."""
        if info.emulated is None:
            raise UsageError(
                f"{info.board.model} cannot be stepped through",
                help="open an emulated board, or record the launch (qpu.record) and replay it",
            )
        self._program, self._focus = program, None
        self._variables = Variables(program)
        if not self._variables.of_kernel:
            self._arguments = {}
        if self._mode != "free":
            self._mode = "step"

    def finished(self) -> None:
        """The launch has ended."""
        self._say("the launch has ended")

    def __enter__(self) -> Debugger:
        self._observed.__enter__()
        OBSERVERS.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        OBSERVERS.remove(self)
        self._observed.__exit__()


def _argument(m: Moment, given: Any) -> Any:
    """An argument of a call: a number, or what the memory of a buffer holds now."""
    if not isinstance(given, Buffer | BufferView):
        return np.float64(given) if isinstance(given, float) else np.int64(given)
    buffer = given.buffer if isinstance(given, BufferView) else given
    mask = 0x3FFFFFFF if m.isa is Isa.VC4 else 0xFFFFFFFF
    data = np.frombuffer(bytes(m.memory.view(buffer.address & mask, buffer.nbytes)), np.uint8)
    strides = given.strides if isinstance(given, BufferView) else None
    return np.ndarray(given.shape, given.dtype, data.data, given.address - buffer.address, strides)


_FLAGS = frozenset({"a", "b", "c", "msf", "n", "z"})
