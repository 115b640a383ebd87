"""Completion of the command line in shells: scripts for bash, zsh and fish, made from the parser's own options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from qpu.errors import UsageError

__all__ = ["SHELLS", "script"]

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
_qpu() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
        esac
        [ -n "$words" ] || case "$command" in
{options}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _qpu qpu
"""

_ZSH = """\
#compdef qpu
autoload -U +X bashcompinit && bashcompinit
{bash}"""


def _parsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def _values(parsers: Mapping[str, argparse.ArgumentParser], boards: str, isas: str) -> Iterator[tuple[str, str]]:
    """Options whose values are known, with the values."""
    yield "--board|--device", boards
    yield "--isa", f"{isas} {boards}"
    for parser in parsers.values():
        for action in _options(parser):
            if action.choices is not None:
                yield "|".join(action.option_strings), " ".join(map(str, action.choices))


def script(shell: str, parser: argparse.ArgumentParser, boards: list[str], isas: list[str]) -> str:
    """The completion script of a shell for the whole command line. Raises: UsageError for an unknown shell."""
    parsers = _parsers(parser)
    if shell == "fish":
        return "".join(_fish(parsers, boards, isas))
    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}; allowed: {', '.join(SHELLS)}", help="name one of these shells")
    values = dict(_values(parsers, " ".join(boards), " ".join(isas)))
    options = {name: " ".join(s for a in _options(each) for s in a.option_strings) for name, each in parsers.items()}
    bash = _BASH.format(
        commands=" ".join(parsers),
        values="\n".join(f'            {key}) words="{text}" ;;' for key, text in values.items()),
        options="\n".join(f'            {key}) words="{text}" ;;' for key, text in options.items()),
    )
    return bash if shell == "bash" else _ZSH.format(bash=bash)


def _fish(parsers: Mapping[str, argparse.ArgumentParser], boards: list[str], isas: list[str]) -> Iterator[str]:
    known = {"--board": boards, "--device": boards, "--isa": [*isas, *boards]}
    for name, parser in parsers.items():
        yield f"complete -c qpu -n __fish_use_subcommand -a {name}\n"
        for action in _options(parser):
            line = f"complete -c qpu -n '__fish_seen_subcommand_from {name}'"
            for option in action.option_strings:
                line += f" -l {option[2:]}" if option.startswith("--") else f" -s {option[1:]}"
            found = known.get(action.option_strings[-1], list(action.choices or ()))
            if action.nargs != 0:
                line += f" -x -a '{' '.join(map(str, found))}'" if found else " -r"
            yield line + "\n"
