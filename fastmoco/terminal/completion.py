"""Completion scripts for bash, zsh and fish: commands, their flags, and the choices of flags."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from fastmoco.terminal.flag_list import Flag

HELP = Flag("--help", "", (), "Print the flags.", "", False, False)
GLOBAL = ("help", "--help", "--version", "--completion")


@dataclass(frozen=True)
class Completed:
    """One command."""

    line: str
    """Purpose in one line."""
    flags: list[Flag]
    """Its flags and positions."""

    @property
    def named(self) -> list[Flag]:
        """Its flags, --help included."""
        return [*(f for f in self.flags if not f.positional), HELP]


def script(shell: str, commands: dict[str, Completed]) -> str:
    """Return the completion script for "bash", "zsh" or "fish". Paths complete everything that is
    neither a command, a flag nor a flag's choice."""
    writers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    return "\n".join(writers[shell](commands)) + "\n"


def _bash(commands: dict[str, Completed]) -> list[str]:
    lines = [
        "# Completion of fastmoco. Load it with: source <(fastmoco --completion bash)",
        "_fastmoco() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        # readline takes --flag=value apart at the equals sign
        '    if [ "$word" = "=" ]; then word=""',
        '    elif [ "$before" = "=" ]; then before="${COMP_WORDS[COMP_CWORD-2]}"; fi',
        '    case "$COMP_CWORD ${COMP_WORDS[1]} $before" in',
        f'        1\\ *) words="{" ".join((*commands, *GLOBAL))}" ;;',
        f'        2\\ help\\ *) words="{" ".join(commands)}" ;;',
        '        2\\ --completion\\ *) words="bash zsh fish" ;;',
    ]
    for verb, command in commands.items():
        lines += [
            f'        *\\ {verb}\\ {f.name}) words="{" ".join(f.choices)}" ;;'
            for f in command.named if f.choices
        ]
    lines.append('        *) case "${COMP_WORDS[1]} $word" in')
    lines += [
        f'            {verb}\\ -*) words="{" ".join(f.name for f in command.named)}" ;;'
        for verb, command in commands.items()
    ]
    return [
        *lines,
        "        esac ;;",
        "    esac",
        '    if [ -n "$words" ]; then',
        '        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "    else",
        '        mapfile -t COMPREPLY < <(compgen -f -- "$word")',
        "        compopt -o filenames 2>/dev/null",
        "    fi",
        "}",
        "complete -F _fastmoco fastmoco",
    ]


def _zsh(commands: dict[str, Completed]) -> list[str]:
    lines = [
        "#compdef fastmoco",
        "# Completion of fastmoco. Load it with: source <(fastmoco --completion zsh)",
        "_fastmoco() {",
        "    local -a commands=(",
        *(f"        {shlex.quote(f'{verb}:{c.line}')}" for verb, c in commands.items()),
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        f"        compadd -- {' '.join(GLOBAL)}",
        "        return",
        "    fi",
        "    local verb=$words[2]",
        "    shift words",
        "    (( CURRENT-- ))",
        "    case $verb in",
        "        help) _describe command commands ;;",
        "        --completion) compadd bash zsh fish ;;",
    ]
    for verb, command in commands.items():
        lines.append(f"        {verb}) _arguments \\")
        for f in command.named:
            text = f.name + f"[{_plain(_first_sentence(f.text))}]"
            if f.choices:
                text += f":value:({' '.join(f.choices)})"
            elif f.value:
                text += ":value:_files"
            lines.append(f"            {shlex.quote(text)} \\")
        lines.append("            '*:path:_files' ;;")
    return [
        *lines,
        "    esac",
        "}",
        # Sourced, the script registers the function. In $fpath, zsh runs the file as the function.
        'if [[ $funcstack[1] == _fastmoco ]]; then _fastmoco "$@"; else',
        "    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
        "    compdef _fastmoco fastmoco",
        "fi",
    ]


def _fish(commands: dict[str, Completed]) -> list[str]:
    lines = [
        "# Completion of fastmoco. Load it with: fastmoco --completion fish | source",
        "function __fastmoco_verb",
        "    set -l words (commandline -opc)",
        "    test (count $words) -gt 1; and test $words[2] = $argv[1]",
        "end",
        "function __fastmoco_no_verb",
        "    test (count (commandline -opc)) -eq 1",
        "end",
        f"complete -c fastmoco -n __fastmoco_no_verb -f -a '{' '.join(GLOBAL)}'",
        "complete -c fastmoco -n '__fastmoco_verb --completion' -f -a 'bash zsh fish'",
        f"complete -c fastmoco -n '__fastmoco_verb help' -f -a '{' '.join(commands)}'",
    ]
    for verb, command in commands.items():
        lines.append(f"complete -c fastmoco -n __fastmoco_no_verb -f -a {verb} "
                     f"-d {_fish_quoted(command.line)}")
        for f in command.named:
            values = f" -x -a '{' '.join(f.choices)}'" if f.choices else " -r" if f.value else ""
            lines.append(f"complete -c fastmoco -n '__fastmoco_verb {verb}' -l {f.name[2:]}"
                         f"{values} -d {_fish_quoted(_first_sentence(f.text))}")
    return lines


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].removesuffix(".")


def _plain(text: str) -> str:
    """Replace the characters that end a description in _arguments."""
    return text.replace("[", "(").replace("]", ")").replace(":", ";").replace("\\", "/")


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
