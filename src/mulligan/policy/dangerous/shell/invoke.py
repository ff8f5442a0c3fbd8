"""What becomes of one command: builtins, functions, wrappers, interpreters, and everything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.events import Command
from mulligan.policy.dangerous.shell import builtins, compiled, effects, interpret, simulate
from mulligan.policy.dangerous.shell.wrappers import WRAPPERS, unwrapped
from mulligan.policy.dangerous.values import EMPTY, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

_MOST_WRAPPERS: Final = 12
# Programs that print, compare or search their words and start none of them.
TALKERS: Final = frozenset({
    "echo", "printf", "test", "[", "[[", "grep", "egrep", "fgrep", "rg", "ag", "ack", "logger",
    "man", "which", "type", "whereis", "help", "info", "apropos", "cat", "less", "more", "head",
    "tail", "wc", "expr", "true", "false", ":", "read", "notify-send", "say", "figlet", "cowsay",
    "jq", "diff", "cmp", "ls", "stat", "basename", "dirname", "git", "gh", "shellcheck", "alias",
    "wall", "zenity", "dialog", "whiptail", "yes", "seq", "sed", "tr", "cut", "history", "tee",
})  # fmt: skip


def invoke(shell: Shell, invocation: Invocation) -> Text:
    """Judges a command; gives what is known of its output."""
    shell.judgement.budget.enter()
    try:
        return _invoke(shell, invocation)
    finally:
        shell.judgement.budget.leave()


def _invoke(shell: Shell, invocation: Invocation) -> Text:
    if not invocation.arguments:
        shell.state.variables.update(
            (name, [value]) for name, value in invocation.environment.items()
        )
        if invocation.environment or invocation.redirects:
            _emit(shell, invocation)
        return EMPTY
    _run_as_name(shell, invocation)
    name = invocation.name
    if name in shell.state.aliases and invocation.arguments[0].text == name:
        words = joined([shell.state.aliases[name], *invocation.arguments[1:]], " ")
        if name not in shell.state.calls:
            shell.state.calls.append(name)
            try:
                return shell.judgement.runs(words, "bash", invocation.place, shell.state)
            finally:
                shell.state.calls.pop()
    if name in shell.state.functions:
        output = shell.call(name, invocation)
        if output is not None:
            return output
    builtin = builtins.BUILTINS.get(name)
    if builtin is not None:
        output = builtin(shell, invocation)
        if output is not None:
            return output
    _emit(shell, invocation)
    return _started(shell, invocation, name)


def _started(shell: Shell, invocation: Invocation, name: str) -> Text:
    """A program: what it starts, runs, does and prints."""
    wrapper = WRAPPERS.get(name)
    if wrapper is not None and not (name == "command" and _only_asks(invocation)):
        return _wrapped(shell, invocation, name)
    effects.of_command(shell, invocation)
    starter = (
        interpret.STARTERS.get(name) or compiled.STARTERS.get(name) or interpret.interpreter(name)
    )
    if starter is not None:
        output = starter(shell, invocation)
        if output is not None:
            return output
    elif name not in TALKERS:
        _shell_in_words(shell, invocation)
    _run_file(shell, invocation)
    return simulate.output(shell, invocation, name)


def _only_asks(invocation: Invocation) -> bool:
    return len(invocation.arguments) > 1 and invocation.arguments[1].text in ("-v", "-V")


def _emit(shell: Shell, invocation: Invocation) -> None:
    """Holds the command as it stands against the rules."""
    shell.judgement.emit(
        Command(
            invocation.name,
            invocation.arguments[1:],
            invocation.place,
            invocation.stdin,
            invocation.environment,
            shell.state.cwd,
        )
    )


def _run_as_name(shell: Shell, invocation: Invocation) -> None:
    """A name that comes from elsewhere is code from elsewhere: ``$line``, read from a socket."""
    first = invocation.arguments[0]
    if first.tags:
        flags = frozenset({"shell"})
        shell.judgement.effect("run", invocation.place, tags=first.tags, flags=flags)


def _wrapped(shell: Shell, invocation: Invocation, name: str) -> Text:
    wrapper = WRAPPERS[name]
    arguments, environment, values = unwrapped(wrapper, invocation.arguments)
    if name == "env":
        arguments = _split_string(invocation.arguments) or arguments
    if name == "xargs":
        files = [shell.judgement.files.get(shell.canonical(value)) for value in values]
        stdin = next((content for content in files if content is not None), invocation.stdin)
        arguments = _with_input(arguments, values, stdin)
    if not arguments or len(shell.state.calls) > _MOST_WRAPPERS:
        if name in ("sudo", "su") and invocation.stdin is not None and _starts_shell(invocation):
            return shell.judgement.runs(invocation.stdin, "bash", invocation.place)
        return simulate.output(shell, invocation, name)
    given = any(argument.text == "-c" for argument in invocation.arguments)
    if wrapper.shell or (given and name in ("flock", "npx")):
        return shell.judgement.runs(
            joined(arguments, " "), "bash", invocation.place, shell.state.child()
        )
    return invoke(shell, invocation.inner(arguments, **environment))


def _starts_shell(invocation: Invocation) -> bool:
    return any(a.text in ("-i", "-s", "--login", "--shell") for a in invocation.arguments[1:])


def _split_string(arguments: list[Text]) -> list[Text]:
    """``env -S 'command words'``."""
    for at, argument in enumerate(arguments[1:], 1):
        match = re.match(r"-[a-z]*S(.*)|--split-string=(.*)", argument.text, re.DOTALL)
        if match:
            rest = match[1] or match[2] or ""
            following = arguments[at + 1 :]
            if not rest:
                rest = following[0].text if following else ""
                following = following[1:]
            return [Text(word, argument.tags) for word in rest.split()] + following
    return []


def _with_input(arguments: list[Text], values: list[Text], stdin: Text | None) -> list[Text]:
    """What ``xargs`` starts: its words and what it reads."""
    arguments = arguments or [Text("echo")]
    if stdin is None:
        return [*arguments, anything()]
    read = [Text(word, stdin.tags) for word in re.split(r"[\s\0]+", stdin.text) if word][:64]
    if not read:
        read = [anything(stdin.tags)]
    placeholder = next((v.text for v in values if v.text in ("%", "@", "_", "I")), "{}")
    if any(placeholder in argument.text for argument in arguments):
        whole = Text(stdin.text.strip(), stdin.tags)
        return [
            Text(argument.text.replace(placeholder, whole.text), argument.tags | whole.tags)
            if placeholder in argument.text
            else argument
            for argument in arguments
        ]
    return [*arguments, *read]


def _shell_in_words(shell: Shell, invocation: Invocation) -> None:
    """``anything bash -c '...'``: a program nobody knows may well start its words."""
    words = invocation.arguments
    for at in range(1, min(len(words) - 1, 64)):
        name = words[at].text.rpartition("/")[2]
        if name not in interpret.LANGUAGES:
            continue
        option = words[at + 1].text
        if option[:1] == "-" and option[-1:] in "ceE" and not option.startswith("--"):
            invoke(shell, invocation.inner(words[at:]))
            return


def _run_file(shell: Shell, invocation: Invocation) -> None:
    """A program that the code itself wrote or fetched."""
    word = invocation.arguments[0]
    if "/" not in word.text or UNKNOWN in word.text:
        return
    content = shell.judgement.files.get(shell.canonical(word))
    if content is not None:
        language = interpret.by_first_line(content.text)
        shell.judgement.runs(content, language, invocation.place)
