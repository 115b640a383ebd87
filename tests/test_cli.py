"""Tests of the command line: output and exit status."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qpu.__main__ import main
from tests.limits import HUNG_S

ISAS = ("vc4", "v3d42", "v3d71")
NOP = {"vc4": 0x100009E7009E7000, "v3d42": 0x3C003186BB800000, "v3d71": 0x38003186BB03F000}


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(*arguments: str, stdin: str | bytes = b"") -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = int(stop.code or 0)
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Result(status, out.decode(errors="replace"), err.decode())

    return call


@pytest.mark.parametrize("isa", ISAS)
def test_text_to_hex_and_back(run: Any, isa: str, tmp_path: Path) -> None:
    done = run("asm", "--isa", isa, "-", stdin="nop\nnop\n")
    assert (done.status, done.out) == (0, f"{NOP[isa]:016x}\n" * 2)
    back = run("disasm", "--isa", isa, "-", "--json", stdin=done.out)
    assert back.status == 0
    assert [r["word"] for r in back.rows] == [f"0x{NOP[isa]:016x}"] * 2
    again = run("asm", "--isa", isa, "-", stdin="\n".join(r["text"] for r in back.rows))
    assert again.out == done.out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", ["bin", "c", "elf"])
def test_file_formats(run: Any, isa: str, form: str, tmp_path: Path) -> None:
    out = tmp_path / f"code.{form}"
    assert run("asm", "--isa", isa, "-", "-o", str(out), "--format", form, stdin="nop\n").status == 0
    if form == "c":
        assert f"0x{NOP[isa] & 0xFFFFFFFF:08x}, 0x{NOP[isa] >> 32:08x}" in out.read_text()
        assert "code_c[2]" in (tmp_path / "code.h").read_text()
        return
    back = run("disasm", "--isa", isa, str(out), "--json")
    assert [r["word"] for r in back.rows] == [f"0x{NOP[isa]:016x}"]


@pytest.mark.parametrize("isa", ISAS)
def test_syntax_errors_are_located_and_exit_1(run: Any, isa: str, tmp_path: Path) -> None:
    source = tmp_path / "bad.qasm"
    source.write_text("nop\nfrobnicate r0\nnop\nfrobnicate r1\n")
    done = run("asm", "--isa", isa, str(source))
    assert (done.status, done.out) == (1, "")
    assert f"{source}:2:1: error[" in done.err and f"{source}:4:1: error[" in done.err
    assert "^" in done.err


def test_disasm_goes_on_after_a_bad_word(run: Any) -> None:
    text = f"{NOP['v3d71']:x}\n# nothing\n0x0000000000000000\n{NOP['v3d71']:016x}\n"
    done = run("disasm", "--isa", "v3d71", "-", "--json", stdin=text)
    assert done.status == 1
    assert [sorted(r) for r in done.rows] == [["text", "word"], ["error", "word"], ["text", "word"]]


def test_vc4_reserved_words_print_raw_and_fail_the_check(run: Any) -> None:
    word = 0xE4020827243CF317
    assert run("disasm", "--isa", "vc4", "-", "--json", stdin=f"{word:x}").rows[0]["text"] == f".int64 0x{word:016x}"
    done = run("check", "--isa", "vc4", "-", "--json", stdin=f"{word:x}")
    assert done.status == 1 and done.rows[0]["ok"] is False


def test_check_takes_several_programs(run: Any) -> None:
    thrsw, nop = 0x38203186BB03F000, NOP["v3d71"]
    good = "\n".join(f"{w:x}" for w in (thrsw, thrsw, nop, nop, thrsw, nop, nop))
    bad = "\n".join(f"{w:x}" for w in (nop, nop))
    done = run("check", "--isa", "v3d71", "-", "--json", stdin=f"{good}\n\n{bad}\n")
    assert [r["ok"] for r in done.rows] == [True, False] and done.status == 1
    finding = done.rows[1]["findings"][0]
    assert set(finding) >= {"rule", "severity", "index", "message"} and finding["severity"] == "error"
    single = "\n".join(f"{w:x}" for w in (nop, thrsw, nop, nop))
    assert run("check", "--isa", "v3d71", "-", "--single-segment", stdin=single).status == 0


def test_asm_only_encodes_unless_asked_to_check(run: Any) -> None:
    assert run("asm", "--isa", "v3d71", "-", stdin="nop\n").status == 0
    done = run("asm", "--isa", "v3d71", "-", "--check", stdin="nop\n")
    assert done.status == 1 and "error[" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("asm", "-"),
        ("asm", "--isa", "v3d33", "-"),
        ("asm", "--isa", "vc4", "/nonexistent/file"),
        ("disasm", "--isa", "vc4", "-", "--symbol", "x"),
        ("emulate",),
        ("emulate", "--board", "pi9", "x.py"),
        ("info", "--device", "pi7"),
    ],
)
def test_wrong_usage_exits_2(run: Any, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert done.err.strip() and "Traceback" not in done.err


def test_binary_of_odd_size_is_refused(run: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"\xff" * 12)
    done = run("disasm", "--isa", "vc4", str(tmp_path / "odd.bin"))
    assert done.status == 2 and "12 bytes" in done.err


@pytest.mark.parametrize("board", ["pi3", "pi4", "pi5", "pi5,slices=3"])
def test_info_of_an_emulated_board(run: Any, board: str) -> None:
    done = run("info", "--device", board, "--json")
    assert done.status == 0
    row = done.rows[0]
    soc, generation, isa, qpus = {
        "pi3": ("BCM2837", 4, "vc4", 12),
        "pi4": ("BCM2711", 6, "v3d42", 8),
        "pi5": ("BCM2712", 7, "v3d71", 16),
        "pi5,slices=3": ("BCM2712", 7, "v3d71", 12),
    }[board]
    assert (row["board"]["soc"], row["board"]["generation"]) == (soc, generation)
    assert row["board"]["model"] and int(row["board"]["revision"], 16) > 0
    device = row["device"]
    assert (device["isa"], device["emulated"], device["qpus"]) == (isa, True, qpus)
    assert device["slices"] * 4 == qpus


def test_doctor_of_a_usable_and_a_denied_board(run: Any) -> None:
    assert run("doctor", "--device", "pi5").status == 0
    done = run("doctor", "--device", "pi5,deny=1")
    assert done.status == 1 and "usermod -aG" in done.out


def test_doctor_cleans_up(run: Any) -> None:
    assert run("doctor", "--device", "pi3", "--clean").status == 0
    done = run("doctor", "--device", "pi5", "--clean")
    assert done.status == 2 and "nothing to clean up; allowed: a Pi 0-3\n  help: leave out --clean" in done.err


def test_doctor_without_a_pi_exits_1(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path))
    done = run("doctor", "--device", "hardware")
    assert done.status == 1 and "emulated" in done.out


def test_exported_symbols_reach_header_and_elf(run: Any, tmp_path: Path) -> None:
    (tmp_path / "part.qinc").write_text("add r1, r0, r0\n")
    source = tmp_path / "code.qasm"
    source.write_text('.global answer, 42\nnop\n::entry\nmov r0, 5\n.include "part.qinc"\n')
    assert run("asm", "--isa", "vc4", str(source), "-o", str(tmp_path / "x.c"), "--format", "c").status == 0
    header = (tmp_path / "x.h").read_text()
    assert "#define answer 42" in header and "#define entry (x_c + 2)" in header
    assert run("asm", "--isa", "vc4", str(source), "-o", str(tmp_path / "x.o"), "--format", "elf").status == 0
    part = run("disasm", "--isa", "vc4", str(tmp_path / "x.o"), "--symbol", "entry", "--json")
    assert [r["text"] for r in part.rows] == ["ldi r0, 5", "add r1, r0, r0"]


def test_warnings_of_the_text_are_shown(run: Any) -> None:
    done = run("asm", "--isa", "vc4", "-", stdin="bra -, ra1\n")
    assert done.status == 0 and "warning[" in done.err


def test_info_says_what_auto_would_use(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QPU_SYSROOT", str(tmp_path))
    row = run("info", "--json").rows[0]
    assert row["board"]["generation"] is None
    assert (row["device"]["isa"], row["device"]["emulated"]) == ("v3d71", True)
    assert run("info", "--json", "--device", "hardware").rows[0]["device"] is None


def test_check_tells_bad_hex_from_text(run: Any) -> None:
    done = run("check", "--isa", "v3d71", "-", stdin=f"{NOP['v3d71']:016x}\nzzz\n")
    assert done.status == 2 and "line 2" in done.err
    assert (
        run("check", "--isa", "v3d71", "-", "--single-segment", stdin="nop\nnop ; nop ; thrsw\nnop\nnop\n").status == 0
    )


def in_shell(command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """A command of its own process, `qpu` being this package."""
    words = command.replace("qpu ", f"{shlex.quote(sys.executable)} -m qpu ")
    done = subprocess.run(["sh", "-c", words], input=stdin, capture_output=True, timeout=HUNG_S, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "command", ["asm --isa v3d71 -", "disasm --isa vc4 -", "check --isa vc4 -", "info --device pi3"]
)
def test_full_output_is_one_line_and_exit_2(command: str) -> None:
    done = in_shell(f"qpu {command} >/dev/full", b"nop\n" if command.startswith("asm") else b"100009e7009e7000\n")
    assert done.returncode == 2
    assert done.stderr.startswith("qpu: No space left") and len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX shell")
@pytest.mark.parametrize(("command", "what"), [("- <&-", "input"), ("/dev/null >&-", "output")])
def test_a_closed_stream_is_an_error(command: str, what: str) -> None:
    done = in_shell(f"qpu asm --isa v3d71 {command}")
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first == f"qpu: standard {what} is closed" and second.startswith("  help: name a file")


def test_sources_in_utf_8_with_a_mark(run: Any) -> None:
    text = "\ufeff# größe\nnop\n".encode()
    assert run("asm", "--isa", "v3d71", "-", stdin=text).out == f"{NOP['v3d71']:016x}\n"
    assert "no-end-thrsw" in run("check", "--isa", "v3d71", "-", stdin=text).out


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("elftools", ("disasm", "--isa", "vc4", "-")),
        ("ioctl_opt", ("doctor", "--device", "pi5")),
        ("numpy", ("emulate", "nothing.py")),
    ],
)
def test_missing_modules_are_named(module: str, command: tuple[str, ...]) -> None:
    # a process of its own: what is imported already would hide that the module is missing
    code = (
        f"import sys, runpy; sys.modules[{module!r}] = None; sys.argv[1:] = {command!r}; "
        "runpy.run_module('qpu', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"\x7fELF\1\1\1" + bytes(60), capture_output=True)
    error = done.stderr.decode()
    assert done.returncode == 1
    assert error.startswith(f"qpu: no module '{module}") and "pip install" in error


def test_include_root_confines_includes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_text("the content of the file\n")
    (tmp_path / "root" / "main.qasm").write_text(f'.include "{tmp_path}/secret"\n')
    main = str(tmp_path / "root" / "main.qasm")
    refused = run("asm", "--isa", "vc4", main, "--include-root", str(tmp_path / "root"))
    assert refused.status == 1 and "outside the include root" in refused.err and "the content" not in refused.err
    assert "the content" in run("asm", "--isa", "vc4", main).err
    assert "--include-root" in run("asm", "--isa", "v3d71", main, "--include-root", str(tmp_path)).err


@pytest.mark.parametrize(("words", "found"), [
    ("qpu em", "emulate"), ("qpu asm --for", "--format"), ("qpu emulate --comp", "--compat"),
    ("qpu emulate --board pi3", "pi3"), ("qpu disasm --isa v3d7", "v3d71"), ("qpu asm --format el", "elf"),
    ("qpu doctor --lo", "--log"), ("qpu completion fi", ""),
])  # fmt: skip
def test_completion_in_bash(words: str, found: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    line = words.split(" ")
    shell = f'COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _qpu; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script + shell], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == ([found] if found else [])


def test_completion_in_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef qpu\nautoload -U +X bashcompinit && bashcompinit\n_qpu() {")
    assert main(["completion", "fish"]) == 0
    fish = capsys.readouterr().out
    assert "complete -c qpu -n '__fish_seen_subcommand_from emulate' -l compat\n" in fish
    assert "-l isa -x -a 'vc4 v3d42 v3d71 pi0 pi1 pi2 pi3 pi4 pi5'" in fish


@pytest.mark.parametrize("command", ["debug", "explore", "replay"])
def test_files_that_are_missing_or_do_not_parse(run: Any, command: str, tmp_path: Path) -> None:
    missing = run(command, str(tmp_path / "nofile.py"))
    assert missing.status != 0 and "nofile.py" in missing.err and "Traceback" not in missing.err
    if command != "replay":
        (tmp_path / "wrong.py").write_text("x = = 3\n")
        wrong = run(command, str(tmp_path / "wrong.py"))
        assert wrong.status == 1 and "x = = 3" in wrong.err and "Traceback" not in wrong.err
    if command == "debug":
        (tmp_path / "none.py").write_text("print(1)\nraise SystemExit(0)\n")
        none = run(command, str(tmp_path / "none.py"))
        assert none.status == 2 and "none.py has ended without a launch" in none.err
