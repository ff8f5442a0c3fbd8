"""Programs that run code or commands given in their words or on their input."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.shell.finding import takes_old
from mulligan.policy.dangerous.values import EMPTY, NO_TAGS, UNKNOWN, Text, anything, joined

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

Starter = Callable[["Shell", "Invocation"], Text | None]

SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ksh", "ash", "mksh", "rbash", "fish",
                           "csh", "tcsh", "yash", "pdksh", "hush"})  # fmt: skip
# Interpreters: language, options that are followed by code.
LANGUAGES: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(SHELLS, ("bash", "c")),
    **dict.fromkeys(("python", "python2", "python3", "pypy", "pypy3", "ipython"), ("python", "c")),
    **dict.fromkeys(("node", "nodejs", "bun"), ("javascript", "ep")),
    "deno": ("javascript", ""),
    "perl": ("perl", "eE"),
    "ruby": ("ruby", "e"),
    "php": ("php", "r"),
    "lua": ("lua", "e"),
    "luajit": ("lua", "e"),
    "osascript": ("applescript", "e"),
    "pwsh": ("powershell", "c"),
    "powershell": ("powershell", "c"),
    "tclsh": ("tcl", ""),
    "Rscript": ("r", "e"),
    "julia": ("julia", "e"),
    "elixir": ("elixir", "e"),
    "groovy": ("groovy", "e"),
    "jshell": ("java", ""),
    "jrunscript": ("java", "e"),
    "jjs": ("java", ""),
    "guile": ("scheme", "c"),
}
# Options of the interpreters that take the next word and are not code.
_VALUED: Final = frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file", "-W", "-X", "-r",
                            "--require", "-I", "--import", "-d"})  # fmt: skip
# Options that take the rest of their word: what looks like a letter of code there is none.
_ATTACHED: Final = {"ruby": "rIEKxFC", "perl": "MmIFCDxi", "python": "WXmQ", "javascript": "r",
                    "php": "dczBF", "lua": "l"}  # fmt: skip
_VERSION = re.compile(r"(python|pypy|perl|ruby|php|lua)[\d.]+")
_FIRST_LINE = re.compile(r"#!\s*\S*/(?:env\s+(?:-S\s+)?)?([A-Za-z]+)")
_QUIET: Final = frozenset({"--version", "-V", "--help", "-h", "-n"})


def interpreter(name: str) -> Starter | None:
    """What runs code under a program's name, versions left out."""
    version = _VERSION.fullmatch(name)
    name = version[1] if version else name
    return _interpreter if name in LANGUAGES else None


def language_of(name: str) -> tuple[str, str]:
    """(language, options that code follows) of an interpreter."""
    version = _VERSION.fullmatch(name)
    return LANGUAGES[version[1] if version else name]


def by_first_line(text: str) -> str:
    """The language of a script by its ``#!`` line, else Bash."""
    match = _FIRST_LINE.match(text)
    name = match[1] if match else ""
    return LANGUAGES.get(name, ("bash", ""))[0]


def _interpreter(shell: Shell, invocation: Invocation) -> Text | None:
    language, options = language_of(invocation.name)
    words = invocation.arguments
    at = 1
    while at < len(words):
        word = words[at].text
        if word[:1] not in "-+" or word == "-" or len(word) == 1:
            break
        if word == "--":
            at += 1
            break
        code = _code(words, at, options, language)
        if code is not None:
            return _run(shell, invocation, code, language, words[at + 2 :])
        if _runs_nothing(word, language):
            return None if word[:2] == "-m" else EMPTY
        if word == "-s" and language == "bash":
            return _from_input(shell, invocation, language)
        at += 2 if word in _VALUED else 1
    if at >= len(words) or words[at].text in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        return _from_input(shell, invocation, language)
    if language == "javascript" and words[at].text in ("run", "eval"):
        at += 1
        if at < len(words) and words[at - 1].text == "eval":
            return _run(shell, invocation, words[at], language, [])
    return _from_file(shell, invocation, words[at:], language) if at < len(words) else None


def _runs_nothing(option: str, language: str) -> bool:
    """Whether an option says that no code follows: a module, the version, a mere check."""
    if option[:2] == "-m" and language == "python":
        return True
    return option in _QUIET and (option != "-n" or language == "bash") and language != "perl"


def _code(words: list[Text], at: int, options: str, language: str) -> Text | None:
    """The code that an option gives, in the next word or in its own."""
    word = words[at].text
    if word in ("--eval", "--print", "--command", "-Command", "-command", "-EncodedCommand", "-enc",
                "--run", "--execute"):  # fmt: skip
        return joined(words[at + 1 :], " ") if words[at + 1 :] else None
    if word.startswith(("--eval=", "--print=", "--command=")):
        return Text(word.partition("=")[2], words[at].tags)
    if word.startswith("--") or not options:
        return None
    for place, letter in enumerate(word[1:], 1):
        if letter in _ATTACHED.get(language, ""):
            return None
        if letter not in options:
            continue
        attached = word[place + 1 :]
        if attached and language != "bash":
            return Text(attached, words[at].tags)
        return words[at + 1] if at + 1 < len(words) else None
    return None


def _run(
    shell: Shell, invocation: Invocation, code: Text, language: str, arguments: list[Text]
) -> Text:
    state = None
    if language == "bash":
        state = shell.state.child()
        state.positional = arguments[1:]
        state.stdin = invocation.stdin
        state.calls = shell.state.calls
        for name, value in invocation.environment.items():
            state.variables[name] = [value]
    if language not in ("bash", "python", "javascript"):
        given = " ".join(word.text for word in invocation.arguments[1:] if word.text[:1] == "-")
        code = Text(f"{code.text}\n# {given}", code.tags)
    output = shell.judgement.runs(code, language, invocation.place, state)
    stdin_tags = invocation.stdin.tags if invocation.stdin else NO_TAGS
    return Text(output.text, output.tags | stdin_tags)


def _from_input(shell: Shell, invocation: Invocation, language: str) -> Text:
    if invocation.on_socket:
        shell.judgement.effect("shell-on-socket", invocation.place)
    stdin = invocation.stdin or shell.state.stdin
    if stdin is None:
        return anything(frozenset({"shell"}))
    output = shell.judgement.runs(stdin, language, invocation.place)
    return Text(output.text, output.tags | (NO_TAGS if stdin.known else frozenset({"shell"})))


def _from_file(
    shell: Shell, invocation: Invocation, words: list[Text], language: str
) -> Text | None:
    if invocation.on_socket and language == "bash":
        shell.judgement.effect("shell-on-socket", invocation.place)
    content = shell.judgement.files.get(shell.canonical(words[0]))
    if content is None:
        if words[0].text.startswith(("http://", "https://")):
            content = anything(frozenset({"network"}))
        else:
            content = anything(words[0].tags)
    if content.text == UNKNOWN and not content.tags:
        return None
    state = None
    if language == "bash":
        state = shell.state.child()
        state.positional = words[1:]
    return shell.judgement.runs(content, language, invocation.place, state)


# Programs with a way of their own to say what they start


def _after_option(*options: str) -> Starter:
    """A program whose option is followed by a command for a shell: ``su -c``, ``script -c``."""

    def start(shell: Shell, invocation: Invocation) -> Text | None:
        words = invocation.arguments
        for at, word in enumerate(words[:-1]):
            if word.text in options:
                return shell.judgement.runs(words[at + 1], "bash", invocation.place)
        if invocation.stdin is not None and invocation.name == "su":
            return shell.judgement.runs(invocation.stdin, "bash", invocation.place)
        return None

    return start


def _ssh(shell: Shell, invocation: Invocation) -> Text | None:
    """What follows the host is read by a shell there; without it, the input is."""
    valued = "bcDEeFIiJLlmOopQRSWw"
    words = invocation.arguments
    at = 1
    while at < len(words) and words[at].text[:1] == "-":
        at += 2 if words[at].text[1:] and words[at].text[-1] in valued else 1
    if at + 1 < len(words):
        shell.judgement.runs(joined(words[at + 1 :], " "), "bash", invocation.place)
    elif invocation.stdin is not None and at < len(words):
        shell.judgement.runs(invocation.stdin, "bash", invocation.place)
    return anything(frozenset({"network"}))


def _find(shell: Shell, invocation: Invocation) -> Text | None:
    from mulligan.policy.dangerous.shell.invoke import invoke  # noqa: PLC0415  (calls back)

    words = invocation.arguments
    roots = []
    for word in words[1:]:
        if word.text[:1] in ("-", "(", "!"):
            break
        roots.append(word)
    found = _found(words, roots)
    for at, word in enumerate(words):
        if word.text in ("-exec", "-execdir", "-ok", "-okdir"):
            ends = (i for i in range(at, len(words)) if words[i].text in (";", "\\;", "+"))
            command = _in_place_of(words[at + 1 : next(ends, len(words))], found)
            invoke(shell, invocation.inner(command))
    tags = frozenset().union(*(shell.judgement.classes(shell.canonical(root)) for root in roots))
    tags = (tags & {"secret"}) | found[0].tags
    return Text("\n".join(path.text for path in found), tags)


def _found(words: list[Text], roots: list[Text]) -> list[Text]:
    """What ``find`` finds below its roots: ``/**/name``."""
    name = UNKNOWN
    for at, word in enumerate(words[:-1]):
        if word.text in ("-name", "-iname") and UNKNOWN not in words[at + 1].text:
            name = words[at + 1].text
    tags = frozenset({"old"}) if takes_old(words) else NO_TAGS
    return [Text(f"{root.text.rstrip('/')}/**/{name}", tags) for root in roots or [Text(".")]]


def _in_place_of(command: list[Text], found: list[Text]) -> list[Text]:
    """The command ``find`` starts, with what it finds in place of ``{}``."""
    filled: list[Text] = []
    for word in command:
        if word.text == "{}":
            filled.extend(found)
        elif "{}" in word.text:
            filled.append(Text(word.text.replace("{}", found[0].text), word.tags))
        else:
            filled.append(word)
    return filled


def _parallel(shell: Shell, invocation: Invocation) -> Text | None:
    words = [a.text for a in invocation.arguments]
    command: list[Text] = []
    at = 1
    while at < len(words) and words[at][:1] == "-":
        at += 2 if words[at] in ("-j", "-P", "-n", "-N", "--jobs", "-S", "-a", "--delay") else 1
    end = next(
        (i for i in range(at, len(words)) if words[i] in (":::", "::::", ":::+")), len(words)
    )
    command = invocation.arguments[at:end]
    values = [a for a in invocation.arguments[end + 1 :] if not a.text.startswith("::")]
    if not values and invocation.stdin is not None:
        values = [invocation.stdin]
    value = joined(values, " ") if values else anything()
    if not command:
        return shell.judgement.runs(Text(value.text.replace(" ", "\n"), value.tags), "bash",
                                    invocation.place)  # fmt: skip
    script = joined(command, " ")
    if "{}" in script.text:
        text = script.text.replace("{}", value.text)
    else:
        text = f"{script.text} {value.text}"
    return shell.judgement.runs(Text(text, script.tags | value.tags), "bash", invocation.place)


def _whole_input(shell: Shell, invocation: Invocation) -> Text | None:
    """``at`` and ``batch`` run what they read."""
    if invocation.stdin is not None:
        shell.judgement.runs(invocation.stdin, "bash", invocation.place)
    return EMPTY


def _crontab(shell: Shell, invocation: Invocation) -> Text | None:
    """Lines of a crontab are five fields and a command."""
    if invocation.stdin is not None:
        lines = [
            re.sub(r"^\s*(?:@\w+|(?:\S+\s+){4}\S+)\s+", "", line, count=1)
            for line in invocation.stdin.text.splitlines()[:200]
        ]
        code = Text("\n".join(lines), invocation.stdin.tags)
        shell.judgement.runs(code, "bash", invocation.place)
    return None


def _awk(shell: Shell, invocation: Invocation) -> Text | None:
    program = _first_operand(invocation, ("-v", "-F", "-f", "--assign", "--field-separator"))
    if program is not None:
        shell.judgement.runs(Text(program.text), "awk", invocation.place)
    return None


def _first_operand(invocation: Invocation, valued: tuple[str, ...]) -> Text | None:
    words = invocation.arguments
    at = 1
    while at < len(words) and words[at].text[:1] == "-":
        at += 2 if words[at].text in valued else 1
    return words[at] if at < len(words) else None


_EMBEDDED = re.compile(
    r"(?:^|.*?[^\w])(?:--checkpoint-action=exec=|--to-command=|--use-compress-program=|:?!\s*|"
    r"exec:|system:|ProxyCommand=|core\.\w+=!?|alias\.\w+=!)(.{2,})",
    re.DOTALL | re.IGNORECASE,
)


_DEBUGGER = re.compile(r"(shell|python|py|pi)\s+(.*)", re.DOTALL)


def _embedded(shell: Shell, invocation: Invocation) -> Text | None:
    """Programs with a way to start a shell: ``tar --checkpoint-action=exec=``, ``vim -c ':!'``."""
    for word in invocation.arguments[1:]:
        command = _DEBUGGER.match(word.text) if invocation.name == "gdb" else None
        if command:
            language = "bash" if command[1] == "shell" else "python"
            shell.judgement.runs(Text(command[2], word.tags), language, invocation.place)
        match = _EMBEDDED.match(word.text[:4096])
        if match:
            code = match[1].partition(",pty")[0].partition(",stderr")[0]
            shell.judgement.runs(Text(code, word.tags), "bash", invocation.place)
    return None


def _after_dashes(shell: Shell, invocation: Invocation) -> Text | None:
    """``kubectl exec pod -- command``."""
    from mulligan.policy.dangerous.shell.invoke import invoke  # noqa: PLC0415  (calls back)

    for at, word in enumerate(invocation.arguments):
        if word.text == "--":
            return invoke(shell, invocation.inner(invocation.arguments[at + 1 :]))
    return None


def _words_of_shell(shell: Shell, invocation: Invocation) -> Text | None:
    """``tmux new-session -d 'command'``, ``screen -dmS x command``: each long word may be one."""
    for word in invocation.arguments[1:]:
        if " " in word.text:
            shell.judgement.runs(word, "bash", invocation.place)
    return None


STARTERS: Final[dict[str, Starter]] = {
    "su": _after_option("-c", "--command"),
    "runuser": _after_option("-c", "--command"),
    "script": _after_option("-c", "--command", "-qc", "-qec"),
    "sg": _after_option("-c"),
    "expect": _after_option("-c"),
    "ssh": _ssh,
    "find": _find,
    "parallel": _parallel,
    "at": _whole_input,
    "batch": _whole_input,
    "crontab": _crontab,
    **dict.fromkeys(("kubectl", "oc", "lxc", "incus"), _after_dashes),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), _awk),
    **dict.fromkeys(
        ("tar", "vim", "vi", "ex", "view", "nvim", "gdb", "rsync", "socat", "scp", "sftp", "zip",
         "less", "man", "ftp", "rvim", "tcpdump", "git"),
        _embedded,
    ),
    **dict.fromkeys(("tmux", "screen", "byobu", "xterm", "gnome-terminal"), _words_of_shell),
}  # fmt: skip
