"""Programs that start other programs: which words of a command are the one they start."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mulligan.policy.dangerous.values import Text

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)


@dataclass(frozen=True)
class Wrapper:
    """How a wrapper's own words are told from the command it starts.

    Attributes:
        valued: its options that take the next word, letters and long names.
        operands: words of its own before the command.
        assignments: whether ``NAME=value`` words may stand before the command.
        shell: whether the words are joined and read by a shell.
    """

    valued: frozenset[str] = frozenset()
    operands: int = 0
    assignments: bool = False
    shell: bool = False


def _wrapper(
    valued: str = "", operands: int = 0, *, assignments: bool = False, joined: bool = False
) -> Wrapper:
    return Wrapper(frozenset(valued.split()), operands, assignments, joined)


WRAPPERS: Final[dict[str, Wrapper]] = {
    "sudo": _wrapper("u g h p C r t T U D R user group host prompt chdir chroot role type",
                     assignments=True),
    "doas": _wrapper("u C"),
    "env": _wrapper("u C unset chdir", assignments=True),
    "nohup": _wrapper(),
    "setsid": _wrapper(),
    "nice": _wrapper("n adjustment"),
    "ionice": _wrapper("c n p class classdata"),
    "timeout": _wrapper("s k signal kill-after", 1),
    "gtimeout": _wrapper("s k signal kill-after", 1),
    "stdbuf": _wrapper("i o e input output error"),
    "time": _wrapper("f o format output"),
    "builtin": _wrapper(),
    "command": _wrapper(),
    "exec": _wrapper("a"),
    "coproc": _wrapper(),
    "xargs": _wrapper("I n P L d a E s max-args max-procs max-lines delimiter arg-file replace "
                      "max-chars"),
    "watch": _wrapper("n interval", joined=True),
    "strace": _wrapper("o e p s u E P a O S X"),
    "ltrace": _wrapper("o e p s u n a"),
    "taskset": _wrapper("p", 1),
    "chrt": _wrapper("T P D", 1),
    "numactl": _wrapper("C N m i cpunodebind membind physcpubind interleave"),
    "flock": _wrapper("w E timeout", 1),
    "chroot": _wrapper("userspec groups", 1),
    "unshare": _wrapper("S G R w root wd setuid setgid"),
    "nsenter": _wrapper("t S G target"),
    "systemd-run": _wrapper("p u M H unit property uid gid slice description on-calendar "
                            "on-active setenv E"),
    "busybox": _wrapper(),
    "toybox": _wrapper(),
    "torsocks": _wrapper(),
    "torify": _wrapper(),
    "proxychains": _wrapper("f"),
    "proxychains4": _wrapper("f"),
    "unbuffer": _wrapper(),
    "setpriv": _wrapper("reuid regid groups"),
    "setarch": _wrapper("", 1),
    "linux32": _wrapper(),
    "linux64": _wrapper(),
    "cgexec": _wrapper("g"),
    "firejail": _wrapper(),
    "fakeroot": _wrapper("l s i b"),
    "faketime": _wrapper("f", 1),
    "prlimit": _wrapper("p pid"),
    "pkexec": _wrapper("user"),
    "dbus-run-session": _wrapper(),
    "xvfb-run": _wrapper("n s e f server-num server-args"),
    "rlwrap": _wrapper(),
    "daemonize": _wrapper("c e o p l u E"),
    "caffeinate": _wrapper("t w"),
    "catchsegv": _wrapper(),
    "start-stop-daemon": _wrapper("n p u c x a exec startas pidfile name user chuid"),
    "uv": _wrapper("", 1),
    "poetry": _wrapper("", 1),
    "pipenv": _wrapper("", 1),
    "bundle": _wrapper("", 1),
    "npx": _wrapper("p package c"),
    "hyperfine": _wrapper("w r m M n warmup runs", joined=True),
    "entr": _wrapper(),
    "chronic": _wrapper(),
    "ts": _wrapper(),
    "!": _wrapper(),
    "-": _wrapper(),
}  # fmt: skip


def unwrapped(
    wrapper: Wrapper, arguments: list[Text]
) -> tuple[list[Text], dict[str, Text], list[Text]]:
    """(the command that is started, variables set for it, values of the wrapper's options)."""
    environment: dict[str, Text] = {}
    values: list[Text] = []
    operands = wrapper.operands
    at = 1
    while at < len(arguments):
        word = arguments[at].text
        if word == "--":
            at += 1
            if not operands:
                break
            continue
        if word[:1] == "-" and len(word) > 1:
            if _takes_next(wrapper, word):
                at += 1
                values.extend(arguments[at : at + 1])
        elif wrapper.assignments and _ASSIGNMENT.match(word):
            name, _, value = word.partition("=")
            environment[name] = Text(value, arguments[at].tags)
        elif operands:
            operands -= 1
        else:
            break
        at += 1
    return arguments[at:], environment, values


def _takes_next(wrapper: Wrapper, option: str) -> bool:
    """Whether an option's value is the next word."""
    if option.startswith("--"):
        return "=" not in option and option[2:] in wrapper.valued
    if option[1:] in wrapper.valued:
        return True
    return option[-1] in wrapper.valued and not any(c in wrapper.valued for c in option[1:-1])
