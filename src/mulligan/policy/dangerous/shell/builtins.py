"""Commands that change the shell itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.events import Command
from mulligan.policy.dangerous.shell.quoting import ansi_c
from mulligan.policy.dangerous.values import EMPTY, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

Builtin = Callable[["Shell", "Invocation"], Text | None]
_FORMAT = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?([sdiouxXcbq%])")


def _cd(shell: Shell, invocation: Invocation) -> Text | None:
    operands = [a for a in invocation.arguments[1:] if a.text[:1] != "-" or a.text == "-"]
    target = operands[0] if operands else shell.state.variables["HOME"][0]
    shell.state.cwd = shell.canonical(target)
    shell.judgement.effect("enter", invocation.place, shell.state.cwd)
    shell.state.variables["PWD"] = [Text(shell.state.cwd.replace("?", UNKNOWN))]
    return EMPTY


def _eval(shell: Shell, invocation: Invocation) -> Text:
    code = joined(invocation.arguments[1:], " ") if invocation.arguments[1:] else EMPTY
    return shell.judgement.runs(code, "bash", invocation.place, shell.state)


def _source(shell: Shell, invocation: Invocation) -> Text:
    if len(invocation.arguments) < 2:
        return EMPTY
    file = invocation.arguments[1]
    content = invocation.stdin if file.text in ("/dev/stdin", "-") else None
    content = content or shell.judgement.files.get(shell.canonical(file)) or anything(file.tags)
    return shell.judgement.runs(content, "bash", invocation.place, shell.state)


def _alias(shell: Shell, invocation: Invocation) -> Text | None:
    for argument in invocation.arguments[1:]:
        name, equals, value = argument.text.partition("=")
        if equals:
            # What stands for a program is held against the rules as a definition of it.
            words = [Text(name), Text(f"={value.partition(' ')[0]}")]
            shell.judgement.emit(Command("alias", words, invocation.place))
            shell.state.aliases[name] = Text(value, argument.tags)
            shell.judgement.runs(Text(value, argument.tags), "bash", invocation.place)
    return EMPTY


def _trap(shell: Shell, invocation: Invocation) -> Text | None:
    words = [a for a in invocation.arguments[1:] if a.text not in ("--", "-", "-p", "-l")]
    if words and words[0].text:
        shell.state.traps.append((words[0], invocation.place))
    return EMPTY


def _set(shell: Shell, invocation: Invocation) -> Text | None:
    words = [argument.text for argument in invocation.arguments]
    if "--" in words:
        shell.state.positional = invocation.arguments[words.index("--") + 1 :]
        return EMPTY
    if len(words) > 1 and words[1][:1] not in "-+":
        shell.state.positional = invocation.arguments[1:]
    return None


def _shift(shell: Shell, invocation: Invocation) -> Text | None:
    if shell.state.positional:
        count = invocation.arguments[1].text if len(invocation.arguments) > 1 else "1"
        shell.state.positional = shell.state.positional[int(count) if count.isdigit() else 1 :]
    return EMPTY


def _read(shell: Shell, invocation: Invocation) -> Text | None:
    stdin = invocation.stdin or shell.state.stdin or anything()
    names = [a.text for a in invocation.arguments[1:] if a.text.isidentifier()] or ["REPLY"]
    for argument in invocation.arguments[1:]:
        descriptor = re.fullmatch(r"-u(\d+)", argument.text)
        if descriptor and descriptor[1] in shell.state.descriptors:
            stdin = shell.state.descriptors[descriptor[1]]
    lines = stdin.text.splitlines()
    known = len(lines) == 1 and stdin.text.strip() != UNKNOWN
    words = lines[0].split(None, len(names) - 1) if known else []
    for at, name in enumerate(names):
        value = Text(words[at], stdin.tags) if at < len(words) else anything(stdin.tags)
        shell.state.variables[name] = [value]
    return EMPTY


def _mapfile(shell: Shell, invocation: Invocation) -> Text | None:
    stdin = invocation.stdin or anything()
    name = invocation.arguments[-1].text
    lines = [Text(line, stdin.tags) for line in stdin.text.splitlines()]
    shell.state.variables[name] = lines or [anything(stdin.tags)]
    return EMPTY


def _printf(shell: Shell, invocation: Invocation) -> Text | None:
    arguments = invocation.arguments[1:]
    variable = None
    if arguments and arguments[0].text == "-v":
        variable, arguments = arguments[1:2], arguments[2:]
    if arguments and arguments[0].text == "--":
        arguments = arguments[1:]
    if not arguments:
        return EMPTY
    output = _formatted(arguments[0], arguments[1:])
    if variable:
        shell.state.variables[variable[0].text] = [output]
        return EMPTY
    return output


def _formatted(form: Text, values: list[Text]) -> Text:
    """The format is used again while values are left."""
    waiting = list(values)
    written = []
    for _ in range(64):
        before = len(waiting)

        def fill(match: re.Match[str]) -> str:
            if match[1] == "%":
                return "%"
            value = waiting.pop(0).text if waiting else ""
            return ansi_c(value) if match[1] == "b" else value

        written.append(_FORMAT.sub(fill, ansi_c(form.text)))
        if not waiting or len(waiting) == before:
            break
    return Text("".join(written), joined([form, *values]).tags)


def _echo(_shell: Shell, invocation: Invocation) -> Text | None:
    arguments = invocation.arguments[1:]
    escapes, end = False, "\n"
    while arguments and re.fullmatch(r"-[neE]+", arguments[0].text):
        escapes = escapes or "e" in arguments[0].text
        end = "" if "n" in arguments[0].text else end
        arguments = arguments[1:]
    if not arguments:
        return Text(end)
    text = joined(arguments, " ")
    return Text((ansi_c(text.text) if escapes else text.text) + end, text.tags)


def _hash(shell: Shell, invocation: Invocation) -> Text | None:
    """``hash -p /bin/rm ls`` makes a name start another program."""
    words = invocation.arguments
    if len(words) > 3 and words[1].text == "-p":
        shell.state.aliases[words[3].text] = words[2]
    return EMPTY


BUILTINS: Final[dict[str, Builtin]] = {
    "cd": _cd,
    "pushd": _cd,
    "eval": _eval,
    "source": _source,
    ".": _source,
    "alias": _alias,
    "trap": _trap,
    "set": _set,
    "shift": _shift,
    "read": _read,
    "mapfile": _mapfile,
    "readarray": _mapfile,
    "printf": _printf,
    "echo": _echo,
    "hash": _hash,
}
