"""The command line `qpu` with the commands info, doctor, asm, disasm, check, build and emulate."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qpu.core.isa import Isa
from qpu.errors import AsmError, DecodeError, QpuError, Severity, UsageError, counted

if TYPE_CHECKING:
    from qpu import formats
    from qpu.core.hazards import Finding
    from qpu.drivers.port import Port
    from qpu.instruction_sets import InstructionSet
    from qpu.program import Program

__all__ = ["main"]

OK, FINDINGS, USAGE = 0, 1, 2
DEPENDENCIES = ("numpy", "ioctl_opt", "elftools")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}", file=sys.stderr)
        print(f"  help: {self.prog} --help lists the options", file=sys.stderr)
        raise SystemExit(USAGE)


INPUT_LIMIT = 1 << 28  # bytes of a program file or text


def _read(name: str) -> bytes:
    if name == "-" and sys.stdin is None:
        raise UsageError("standard input is closed", help="name a file")
    try:
        if name == "-":
            data = sys.stdin.buffer.read(INPUT_LIMIT + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(INPUT_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}", help="name a readable file, or -") from None
    if len(data) > INPUT_LIMIT:
        raise UsageError(f"{name} has more than {INPUT_LIMIT >> 20} MiB", help="name a program file or text")
    return data


def _write(name: str | None, data: bytes) -> None:
    if name is None or name == "-":
        if sys.stdout is None:
            raise UsageError("standard output is closed", help="name a file with -o")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(name).write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {name}: {error.strerror}", help="name another file with -o") from None


def _isa_of(name: str) -> str:
    """An instruction set by its name or by a board that has it."""
    from qpu.emu.boards import BOARDS

    known = [str(i) for i in Isa]
    board = BOARDS.get(name.partition(",")[0].lower())
    found = name.lower() if board is None else str(board.isa)
    if found not in known:
        raise UsageError(
            f"--isa {name}: unknown; allowed: {', '.join(known)}, or a board: {', '.join(BOARDS)}",
            help="vc4 is the GPU of Pi 0 to 3, v3d42 of Pi 4, v3d71 of Pi 5",
        )
    return found


def _input(name: str | None) -> str:
    """The file to read; standard input where none is named and it is not a terminal."""
    if name is not None:
        return name
    if sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("nothing to read: standard input is a terminal", help="name a file, or - to type the text")
    return "-"


def _require_instructions(name: str, data: bytes, found: Sequence[Any]) -> None:
    """Raises: UsageError when a file has no instructions."""
    if not found:
        what = "is empty" if not data.strip() else "has no instructions, only comments"
        raise _Empty(f"{name} {what}", help="give 64-bit words: hex, binary, C source or ELF")


class _Empty(QpuError):
    """A file without instructions."""


def _toolkit(name: str) -> InstructionSet:
    from qpu.instruction_sets import isa

    return isa(name)


# -- asm


def _asm(options: argparse.Namespace) -> int:
    from qpu import formats
    from qpu.core.hazards import diagnostics

    toolkit = _toolkit(options.isa)
    try:
        source = _read(options.input).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{options.input} is not UTF-8 text (byte {error.start})", help="name a file of assembly source"
        ) from None
    filename = "<stdin>" if options.input == "-" else options.input
    symbols = formats.Symbols()
    if options.isa == Isa.VC4:
        program, symbols = _assemble_vc4(source, filename, options.include, options.include_root)
    elif options.include or options.include_root:
        raise UsageError("-I and --include-root are for vc4: V3D text has no includes", help="leave them out")
    else:
        program = toolkit.assemble(source, filename=filename, check=False)
        for warning in program.warnings:
            print(warning.render(), file=sys.stderr)
    failed = False
    if options.check:
        findings = toolkit.check(program.code, single_segment=options.single_segment)
        for found in diagnostics(findings, program):
            print(found.render(), file=sys.stderr)
            if found.other is not None and (loc := program.loc(found.other)) is not None:
                print(f"  with {loc}: {loc.source.strip()}", file=sys.stderr)
        failed = any(f.severity is Severity.ERROR for f in findings)
    stem = "program" if options.output in (None, "-") else Path(options.output).name
    if options.format == "hex":
        data = formats.write_hex(program.code).encode()
    elif options.format == "bin":
        data = formats.write_binary(program.code)
    elif options.format == "elf":
        data = formats.write_elf(program.code, stem, symbols)
    else:
        name = formats.c_identifier(stem)
        texts = [_text(toolkit, word) for word in program.code]
        if options.output in (None, "-"):
            data = formats.write_c(program.code, name, comments=texts).encode()
        else:
            header = Path(options.output).with_suffix(".h")
            data = formats.write_c(program.code, name, header=header.name, comments=texts).encode()
            _write(str(header), formats.write_header(program.code, name, symbols).encode())
    _write(options.output, data)
    return FINDINGS if failed else OK


def _assemble_vc4(
    source: str, filename: str, include: Sequence[str], root: str | None
) -> tuple[Program, formats.Symbols]:
    """VideoCore IV text, with what it exports; its warnings go to stderr."""
    from qpu import formats
    from qpu.program import Program
    from qpu.vc4.vc4asm import assemble_text

    near = [] if filename == "<stdin>" else [str(Path(filename).parent)]
    text = assemble_text(source, filename=filename, include_path=[*near, *include], include_root=root)
    for warning in text.warnings:
        print(warning.render(), file=sys.stderr)
    labels = {n: int(s.value) for n, s in text.globals.items() if s.is_label}
    values = {n: s.value for n, s in text.globals.items() if not s.is_label and isinstance(s.value, (int, float))}
    return Program(Isa.VC4, tuple(text.words), locs=text.locs), formats.Symbols(labels, values)


def _text(toolkit: InstructionSet, word: int) -> str:
    try:
        return toolkit.disassemble(word)
    except DecodeError:
        return ""


def _finding_text(finding: Finding) -> str:
    return f"instruction {finding.index}: {finding.severity}[{finding.label}]: {finding.message}"


# -- disasm


def _disasm(options: argparse.Namespace) -> int:
    from qpu import formats

    toolkit = _toolkit(options.isa)
    data = _read(options.input)
    try:
        words = formats.read_words(data, section=options.section, symbol=options.symbol)
    except formats.BadWord as bad:
        if formats.looks_like_hex(data):
            raise
        help = f"assemble it first: qpu asm --isa {options.isa} {options.input}"
        raise UsageError(f"{bad.found}: this looks like source, not like code", help=help) from None
    _require_instructions(options.input, data, words)
    failed = False
    out: list[str] = []
    for word in words:
        row: dict[str, str] = {"word": f"0x{word:016x}"}
        try:
            row["text"] = toolkit.disassemble(word)
            note = toolkit.note(word)
            if note:
                row["note"] = note
        except DecodeError as error:
            row["error"] = error.diagnostics[0].message
            failed = True
        if options.json:
            out.append(json.dumps(row))
        elif "error" in row:
            out.append(f"{row['word']}  # error: {row['error']}")
        else:
            out.append(row["text"] + (f"  # {row['note']}" if "note" in row else ""))
    if options.listing and not options.json:
        from qpu.program import Program

        out = [toolkit.listing(Program(Isa(options.isa), tuple(words)))]
    if out:
        print("\n".join(out))
    return FINDINGS if failed else OK


# -- check


def _check(options: argparse.Namespace) -> int:
    from qpu import formats

    toolkit = _toolkit(options.isa)
    data = _read(options.input)
    try:
        programs = formats.read_programs(data, section=options.section, symbol=options.symbol)
    except formats.BadWord:
        if formats.looks_like_hex(data):
            raise
        programs = [list(toolkit.assemble(data.decode("utf-8-sig"), filename=options.input, check=False).code)]
    _require_instructions(options.input, data, [word for program in programs for word in program])
    failed = False
    for number, words in enumerate(programs):
        findings = toolkit.check(words, single_segment=options.single_segment)
        ok = not any(f.severity is Severity.ERROR for f in findings)
        failed |= not ok
        if options.json:
            rows = [
                {"rule": f.rule, "severity": str(f.severity), "index": f.index, "message": f.message}
                | ({"name": f.name} if f.name else {})
                | ({} if f.other is None else {"other": f.other})
                | ({} if f.distance is None else {"distance": f.distance})
                for f in findings
            ]
            print(json.dumps({"ok": ok, "findings": rows}))
            continue
        head = f"program {number}: " if len(programs) > 1 else ""
        for finding in findings:
            print(head + _finding_text(finding))
            for index in sorted({finding.index, finding.index if finding.other is None else finding.other}):
                if index < len(words):  # a finding about the whole program is past its last instruction
                    print(f"    {index}: {_text(toolkit, words[index])}")
        if not findings:
            print(f"{head}{counted(len(words), 'instruction')}, no findings")
    return FINDINGS if failed else OK


# -- build


_build_help = "Compile the kernels of a module, with the defaults of their constants, into one file for load_cache."


def _build(options: argparse.Namespace) -> int:
    from qpu.errors import CompileError
    from qpu.lang import cache
    from qpu.lang.modules import kernels_of

    isas = list(Isa) if options.isa == "all" else [Isa(options.isa)]
    kernels = kernels_of(options.module)
    if not kernels:
        raise UsageError(f"{options.module} defines no kernel", help="a function under @kernel or @ufunc")
    try:
        entries = cache.entries_of(kernels, isas, lambda line: print(line, file=sys.stderr))
    except CompileError as error:
        print(error, file=sys.stderr)
        return FINDINGS
    _write(options.output, cache.file_of(entries))
    return OK


# -- info, doctor


def _name(options: argparse.Namespace) -> str:
    return options.device if options.device is not None else os.environ.get("QPU_DEVICE") or "auto"


def _port(options: argparse.Namespace) -> Port:
    name = _name(options)
    if name.startswith("pi"):
        from qpu.emu.port import EmuPort

        return EmuPort(name)
    if name not in ("auto", "hardware") and "/" not in name:
        what = f"unknown device {name!r}; allowed: auto, hardware, pi0 .. pi5, a path"
        raise UsageError(what, help="write one of these; options follow a comma: pi5,slices=3")
    from qpu.drivers.linux import LinuxPort

    return LinuxPort()


def _stand_in(port: Port) -> Port:
    """The emulated board that `auto` uses when `port` has no usable GPU."""
    from qpu.drivers.probe import detect_board
    from qpu.emu.port import EmuPort

    return EmuPort(detect_board(port).emulated_by)


def _info(options: argparse.Namespace) -> int:
    from qpu.drivers.doctor import info, info_text

    port = _port(options)
    data = info(port, (lambda: _stand_in(port)) if _name(options) == "auto" else None)
    print(json.dumps(data) if options.json else info_text(data))
    return OK


def _log(name: str) -> int:
    """Explain the messages of the GPU's driver in a log."""
    from qpu.drivers.system import explain_log

    lines = explain_log(_read(name).decode("utf-8", "replace"))
    print("\n".join(lines) if lines else "no message of the GPU's driver in this log")
    return FINDINGS if lines else OK


def _doctor(options: argparse.Namespace) -> int:
    from qpu.drivers.doctor import checks_json, checks_text, examine

    port = _port(options)
    if options.clean:
        from qpu.drivers.vc4.power import clean_up

        clean_up(port)
    if options.log is not None:
        return _log(options.log)
    name = _name(options)
    report = examine(port, name if name.startswith("/") else "hardware")
    print(json.dumps(checks_json(report)) if options.json else checks_text(report))
    return OK if report.usable else FINDINGS


# -- debugging


def _replay(options: argparse.Namespace) -> int:
    from qpu.debug.commands import replay_file

    return OK if replay_file(options.file, options.board, options.sanitize) else FINDINGS


def _explore(options: argparse.Namespace) -> int:
    from qpu.debug.explore import explore
    from qpu.lang.modules import kernels_of

    kernels = kernels_of(options.module)
    if not kernels:
        raise UsageError(f"{options.module} defines no kernel", help="a function under @kernel or @ufunc")
    _write(options.output, explore(kernels, Path(options.module).name).encode())
    return OK


def _debug(options: argparse.Namespace) -> int:
    from qpu.debug.commands import debug_script

    debug_script(options.script)
    return OK


# -- port


def _port_old(options: argparse.Namespace) -> int:
    from qpu.compat.port import port

    try:
        source = _read(options.input).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{options.input} is not UTF-8 text (byte {error.start})", help="name a Python file") from None
    found = port(source, options.input)
    _write(options.output, found.text.encode())
    for line, text in found.notes:
        print(f"{options.input}:{line}: not translated: {text}", file=sys.stderr)
    return FINDINGS if found.notes else OK


# -- emulate


def _emulate_parser() -> _Parser:
    parser = _Parser(
        prog="qpu emulate",
        description="Run an unmodified Python program that makes its own system calls on an emulated board.",
        usage="qpu emulate [--board B] [--strict] [--compat] [--sanitize[=KINDS]] [--trace FILE] "
        "(SCRIPT | -m MODULE) [ARG...]",
        allow_abbrev=False,
        epilog="Options end at the script (- is standard input) or at -m. Traces of children: FILE.PID.SUFFIX.",
    )
    parser.add_argument("--board", default="pi5", help="pi0 .. pi5, with options such as pi5,slices=3 (default: pi5)")
    parser.add_argument("--strict", action="store_true", help="stop at the first fault")
    parser.add_argument(
        "--compat",
        action="store_true",
        help="stand-ins for rpi_vcsm, and names that NumPy 2 and current Python removed, for old programs",
    )
    parser.add_argument(
        "--sanitize",
        nargs="?",
        const="all",
        metavar="KINDS",
        help="look for unwritten values, races and wrong synchronisation (mem,init,race,sync; default: all)",
    )
    trace = parser.add_argument_group("trace of executed instructions with register changes (reference engine: slow)")
    trace.add_argument("--trace", metavar="FILE", help="record to FILE, written at the end")
    trace.add_argument("--trace-format", choices=("text", "jsonl"), help="default: by suffix, .jsonl or .json: jsonl")
    trace.add_argument("--trace-qpu", metavar="LIST", help="only these QPUs, such as 0,3-5")
    trace.add_argument("--trace-range", metavar="A-B", help="only these instructions of a program, from 0")
    trace.add_argument("--trace-limit", metavar="N", help="keep the last N entries (default: 100000)")
    return parser


def _emulate(arguments: Sequence[str]) -> int:
    parser = _emulate_parser()
    valued = {o for action in parser._actions if action.nargs is None for o in action.option_strings}
    own: list[str] = []
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] not in ("-m", "-"):
        own.append(rest.pop(0))
        if own[-1] in valued and rest:
            own.append(f"{own.pop()}={rest.pop(0)}")  # a value may begin with a dash
    options = parser.parse_args(own)
    if not rest or rest == ["-m"]:
        parser.error("name a script, or -m and a module")
    filters = {"form": options.trace_format, "qpus": options.trace_qpu, "span": options.trace_range}
    filters["limit"] = options.trace_limit
    if options.trace is None and any(filters.values()):
        parser.error("--trace-format, --trace-qpu, --trace-range and --trace-limit belong to --trace FILE")
    try:
        from qpu.emu.process.run import run_emulated
        from qpu.emu.process.trace_file import TraceFile
    except ImportError as error:
        if error.name in DEPENDENCIES:
            raise
        parser.error(f"catching system calls needs Linux (no module {error.name!r} here); use qpu.open_device('pi5')")
    record = TraceFile.parse(options.trace, **filters) if options.trace is not None else None
    if options.sanitize is not None:
        from qpu.debug.sanitizer import set_environment

        set_environment(options.sanitize, stop=options.strict)
    return run_emulated(rest, board=options.board, strict=options.strict, trace=record, compat=options.compat)


def _arguments() -> argparse.ArgumentParser:
    import qpu

    parser = _Parser(prog="qpu", description="GPGPU on every Raspberry Pi GPU, real or emulated.")
    parser.add_argument("--version", action="version", version=f"qpu {qpu.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    names = [str(i) for i in Isa]

    def code(name: str, help_: str, run: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.add_argument("--isa", required=True, metavar="ISA", help=f"{', '.join(names)}, or a board: pi0 .. pi5")
        sub.add_argument("input", metavar="IN", nargs="?", help="file, or - for standard input, which is the default")
        sub.set_defaults(run=run)
        return sub

    asm = code("asm", "text to code", _asm)
    asm.add_argument("-o", "--output", metavar="OUT")
    asm.add_argument("--format", choices=("hex", "bin", "c", "elf"), default="hex")
    asm.add_argument("-I", dest="include", action="append", default=[], metavar="DIR", help="vc4: where includes are")
    asm.add_argument("--include-root", metavar="DIR", help="vc4: refuse includes outside this directory")
    asm.add_argument("--check", action="store_true", help="apply hazard and program rules; errors exit 1")
    asm.add_argument("--single-segment", action="store_true", help="V3D: check for single-segment launch")
    disasm = code("disasm", "code to text", _disasm)
    disasm.add_argument("--json", action="store_true", help="one JSON object a word")
    disasm.add_argument("--listing", action="store_true", help="one program with labels at branch targets")
    check = code("check", "validity and hazard findings", _check)
    check.add_argument("--json", action="store_true", help="one JSON object a program")
    check.add_argument("--single-segment", action="store_true", help="V3D: launched as a single segment")
    for sub in (disasm, check):
        sub.add_argument("--section", help="section of an ELF file")
        sub.add_argument("--symbol", help="symbol of an ELF file")
    for name, help_, run in (
        ("info", "board, GPU, node, clocks, memory, versions", _info),
        ("doctor", "what stops this machine from using its GPU, and what to do about it", _doctor),
    ):
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.add_argument("--json", action="store_true")
        sub.add_argument("--device", help="look at this emulated board instead of the machine")
        if name == "doctor":
            sub.add_argument(
                "--log", metavar="FILE", help="explain messages of v3d in a log: dmesg | qpu doctor --log -"
            )
            sub.add_argument("--clean", action="store_true", help="power the QPUs off after a killed process (Pi 0-3)")
        sub.set_defaults(run=run)
    build = commands.add_parser("build", help="compile kernels ahead of time", description=_build_help)
    build.add_argument("module", metavar="MODULE", help="a file of Python, or a module's name")
    build.add_argument("--isa", metavar="ISA", default="all", help=f"{', '.join(names)}, a board, or all, the default")
    build.add_argument("-o", "--output", metavar="OUT", required=True, help="for qpu.lang.load_cache")
    build.set_defaults(run=_build)
    page = commands.add_parser("explore", help="one HTML page of kernels: source, operations, instructions of each GPU")
    page.add_argument("module", metavar="FILE", help="a file of Python, or a module's name")
    page.add_argument("-o", "--output", metavar="OUT", default="-", help="default: standard output")
    page.set_defaults(run=_explore)
    step = commands.add_parser("debug", help="step through the launches of a Python script on an emulated board")
    step.usage = "qpu debug SCRIPT [ARG...]"
    step.add_argument("script", metavar="SCRIPT", nargs=argparse.REMAINDER, help="a file of Python, and its arguments")
    step.set_defaults(run=_debug)
    again = commands.add_parser("replay", help="run the launches of a record (qpu.record) on an emulated board")
    again.add_argument("file", metavar="FILE")
    again.add_argument("--board", help="another board with the same instruction set")
    again.add_argument("--sanitize", nargs="?", const="all", metavar="KINDS", help="see qpu emulate --sanitize")
    again.set_defaults(run=_replay)
    old = commands.add_parser("port", help="rewrite a program of py-videocore, -videocore6 or -videocore7")
    old.add_argument("input", metavar="OLD.py", help="the old program, or - for standard input")
    old.add_argument("-o", "--output", metavar="NEW.py", default="-", help="default: standard output")
    old.set_defaults(run=_port_old)
    complete = commands.add_parser("completion", help="print the completion script of a shell")
    complete.add_argument("shell", choices=("bash", "zsh", "fish"))
    complete.set_defaults(run=_completion)
    commands.add_parser("emulate", help="run an unmodified Python program on an emulated board", add_help=False)
    return parser


def _completion(options: argparse.Namespace) -> int:
    from qpu.completion import script
    from qpu.emu.boards import BOARDS

    parser = _arguments()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            action.choices["emulate"] = _emulate_parser()
    print(script(options.shell, parser, list(BOARDS), [str(i) for i in Isa]), end="")
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 fine, 1 findings or a failed program, 2 wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["emulate"]:
            return _emulate(words[1:])
        options = _arguments().parse_args(words)
        if "isa" in options and options.isa != "all":
            options.isa = _isa_of(options.isa)
        if "input" in options:
            options.input = _input(options.input)
        status: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # so that a write error is reported here, not when the interpreter exits
        return status
    except UsageError as error:
        print(f"qpu: {error}", file=sys.stderr)
        return USAGE
    except AsmError as error:
        print(error, file=sys.stderr)
        return FINDINGS
    except QpuError as error:
        print(f"qpu: {error}", file=sys.stderr)
        return FINDINGS
    except SyntaxError as error:  # of the user's script or module
        sys.excepthook(type(error), error.with_traceback(None), None)
        return FINDINGS
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in DEPENDENCIES:
            raise
        print(f"qpu: no module {error.name!r} here\n  help: pip install videocore-qpu", file=sys.stderr)
        return FINDINGS
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINDINGS
    except OSError as error:
        print(f"qpu: {error.strerror or error} ({error.filename or 'standard input or output'})", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes the rest there
        return USAGE
    except KeyboardInterrupt:
        print("qpu: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
