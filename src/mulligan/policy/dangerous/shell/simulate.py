"""What programs print that only turn texts into texts, as far as their input is known."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous import decode
from mulligan.policy.dangerous.shell import effects
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

Made = Callable[[list[str], str], str | None]

NETWORK: Final = frozenset({
    "curl", "wget", "fetch", "aria2c", "lynx", "links", "w3m", "lwp-request", "GET", "nc", "ncat",
    "netcat", "socat", "telnet", "dig", "drill", "nslookup", "host", "http", "https", "xh", "ftp",
    "tftp", "openssl", "lwp-download", "httpie", "wget2", "elinks", "websocat", "cryptcat", "gh",
})  # fmt: skip
_CONNECTIONS: Final = frozenset({"nc", "ncat", "netcat", "socat", "telnet", "cryptcat", "openssl"})
_PICKERS: Final = frozenset({"grep", "egrep", "rg", "head", "tail", "pgrep", "jq"})
_DECODERS: Final = frozenset(
    {
        "base64",
        "base32",
        "xxd",
        "openssl",
        "uudecode",
        "gunzip",
        "zcat",
        "gpg",
        "bzcat",
        "xzcat",
        "basenc",
        "unxz",
        "bunzip2",
        "uncompress",
    }
)
# What gh prints of itself, not of the network.
_GH_OWN: Final = frozenset({"alias", "auth", "completion", "config", "copilot", "help", "version"})
# Processes that the system itself, or watching over it, depends on.
_DAEMONS: Final = re.compile(
    r"\W{0,3}\[?(?:sshd|systemd\w*|init|dockerd|containerd\S*|auditd|r?syslogd|falco|osqueryd|clamd|"
    r"fail2ban\S*|crond?|dbus-daemon|Xorg|journald|systemd-journald|bwrap)\]?\W{0,3}|\[s\]shd|\[c\]rond?"
)
_DECODES = re.compile(r"-[a-zA-Z]*[dDr][a-zA-Z]*|--decode|--decrypt|enc|--reverse")


def output(shell: Shell, invocation: Invocation, name: str) -> Text:
    """What is known of a program's output: its text, or where it comes from."""
    words = [argument.text for argument in invocation.arguments]
    tags = _tags(shell, invocation, name, words)
    source = _source(shell, invocation, name)
    made = _MADE.get(name)
    text = made(words, source) if made is not None and UNKNOWN not in source else None
    if text is not None:
        return Text(text, tags)
    if name in _DECODERS and any(_DECODES.fullmatch(word) for word in words[1:]):
        tags |= {"decoded"}
    return Text(UNKNOWN, tags)


def _tags(shell: Shell, invocation: Invocation, name: str, words: list[str]) -> frozenset[str]:
    """Where a program's output comes from: its input, its words, its files, what it is."""
    tags = invocation.stdin.tags if invocation.stdin is not None else NO_TAGS
    for argument in invocation.arguments[1:]:
        if argument.tags:
            tags |= argument.tags
    tags |= _network_tags(name, words)
    if name in effects.READERS:
        tags |= effects.read_tags(shell, invocation.arguments)
    if name not in _MADE or name == "head":
        tags -= {"endless-text", "zeros"}
    if _lists_environment(name, words):
        tags |= {"environment"}
    tags = _process_tags(tags, name, words)
    return tags | {"endless-text"} if name == "yes" else tags


def _network_tags(name: str, words: list[str]) -> frozenset[str]:
    own = name == "gh" and words[1:2] and words[1] in _GH_OWN
    if name not in NETWORK or own or (name == "openssl" and "s_client" not in words):
        return NO_TAGS
    return frozenset({"network", "socket"} if name in _CONNECTIONS else {"network"})


def _process_tags(tags: frozenset[str], name: str, words: list[str]) -> frozenset[str]:
    """The tags of what lists processes, or picks from such a list."""
    if name == "ps" and any(
        re.fullmatch(r"-[A-Za-z]*[eA][A-Za-z]*|-?[aux]*ax?[aux]*", word) for word in words[1:]
    ):
        return tags | {"every-process"}
    if name == "ls" and "/proc" in (word.rstrip("/") for word in words):
        return tags | {"process-list"}
    if name not in _PICKERS and name != "pidof":
        return tags
    watched = name in ("pgrep", "pidof") or "every-process" in tags
    if watched and any(_DAEMONS.fullmatch(word) for word in words[1:]):
        tags |= {"system-process"}
    return tags - {"every-process"}


def _lists_environment(name: str, words: list[str]) -> bool:
    if name in ("env", "printenv", "set"):
        return len(words) == 1 or (name == "env" and words[1:] == ["-0"])
    return name in ("export", "declare", "typeset") and words[1:] in (["-p"], ["-x"], ["-px"], [])


def _source(shell: Shell, invocation: Invocation, name: str) -> str:
    """What a filter reads: files the code wrote, else its input."""
    if name in ("cat", "base64", "rev", "tac", "head", "tail", "sort", "xxd", "gunzip", "zcat"):
        texts = []
        for word in effects.operands(invocation.arguments, "nc"):
            known = shell.judgement.files.get(shell.canonical(word))
            texts.append(known.text if known is not None else UNKNOWN)
        if texts and [word.text for word in effects.operands(invocation.arguments, "nc")] != ["-"]:
            return "".join(texts)
    if invocation.stdin is None:
        return UNKNOWN if name in ("cat", "base64", "rev", "tr", "xxd", "tac", "sed") else ""
    return invocation.stdin.text


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _base64(words: list[str], source: str) -> str | None:
    try:
        if any(re.fullmatch(r"-[a-z]*[dD][a-z]*|--decode", word) for word in words[1:]):
            return decode.text_of(base64.b64decode(_bytes(source)))
        return base64.b64encode(_bytes(source)).decode() + "\n"
    except (ValueError, UnicodeError):
        return None


def _base32(words: list[str], source: str) -> str | None:
    try:
        if any(word in ("-d", "--decode", "-D") for word in words):
            return decode.text_of(base64.b32decode(_bytes(source.strip())))
    except (ValueError, UnicodeError):
        return None
    return None


def _xxd(words: list[str], source: str) -> str | None:
    joined = "".join(words[1:])
    if "r" not in joined or "p" not in joined:
        return None
    try:
        return decode.text_of(binascii.unhexlify(re.sub(r"\s+", "", source)))
    except (ValueError, UnicodeError):
        return None


def _openssl(words: list[str], source: str) -> str | None:
    if "-d" in words and ("base64" in words or "-base64" in words) and "-k" not in words:
        return _base64(["base64", "-d"], source)
    return None


def _gunzip(words: list[str], source: str) -> str | None:
    if words[0].rpartition("/")[2] in ("gzip", "bzip2", "xz") and not any(
        "d" in w for w in words[1:]
    ):
        return None
    try:
        data = decode.inflated(_bytes(source))
    except UnicodeError:
        return None
    return decode.text_of(data) if data is not None else None


def _rev(_words: list[str], source: str) -> str | None:
    return "\n".join(line[::-1] for line in source.split("\n"))


def _tac(_words: list[str], source: str) -> str | None:
    return "\n".join(reversed(source.rstrip("\n").split("\n"))) + "\n"


def _tr(words: list[str], source: str) -> str | None:
    options = [word for word in words[1:] if word[:1] == "-" and len(word) > 1]
    sets = [_set(word) for word in words[1:] if word not in options]
    if any("d" in option for option in options) and sets:
        return "".join(character for character in source if character not in sets[0])
    if len(sets) != 2 or not sets[1] or options:
        return None
    to = sets[1].ljust(len(sets[0]), sets[1][-1])
    return source.translate({ord(a): b for a, b in zip(sets[0], to, strict=False)})


def _set(word: str) -> str:
    named = {"[:upper:]": "A-Z", "[:lower:]": "a-z", "[:digit:]": "0-9", "[:space:]": " \\t\\n"}
    for name, span in named.items():
        word = word.replace(name, span)
    word = codecs.decode(word, "unicode_escape") if "\\" in word and word.isascii() else word
    return re.sub(
        r"(.)-(.)",
        lambda m: "".join(chr(c) for c in range(ord(m[1]), min(ord(m[2]), ord(m[1]) + 256) + 1)),
        word,
    )


def _same(_words: list[str], source: str) -> str | None:
    return source


def _sed(words: list[str], source: str) -> str | None:
    """``s/literal/literal/``, the one form that is used to spell names."""
    scripts = [word for word in words[1:] if word[:1] != "-"]
    match = (
        re.fullmatch(r"s(.)([^\\.*\[\]^$]*?)\1([^\\&]*?)\1(g?)", scripts[0]) if scripts else None
    )
    if match is None or len(scripts) > 1:
        return None
    return source.replace(match[2], match[3], -1 if match[4] else 1) if match[2] else None


def _which(words: list[str], _source: str) -> str | None:
    operands = [word for word in words[1:] if word[:1] != "-"]
    return f"/usr/bin/{operands[0]}\n" if operands else None


def _mktemp(_words: list[str], _source: str) -> str | None:
    return "/tmp/tmp.made\n"  # noqa: S108  (a name that is judged, no file)


def _basename(words: list[str], _source: str) -> str | None:
    operands = [word for word in words[1:] if word[:1] != "-"]
    if not operands or UNKNOWN in operands[0]:
        return None
    return operands[0].rstrip("/").rpartition("/")[2] + "\n"


def _dirname(words: list[str], _source: str) -> str | None:
    operands = [word for word in words[1:] if word[:1] != "-"]
    if not operands or UNKNOWN in operands[0]:
        return None
    return (operands[0].rstrip("/").rpartition("/")[0] or "/") + "\n"


def _seq(words: list[str], _source: str) -> str | None:
    numbers = [int(word) for word in words[1:] if re.fullmatch(r"-?\d{1,6}", word)]
    if len(numbers) not in (1, 2):
        return None
    first, last = (1, numbers[0]) if len(numbers) == 1 else numbers
    return "".join(f"{number}\n" for number in range(first, min(last, first + 64) + 1))


def _ls(words: list[str], _source: str) -> str | None:
    """``ls -d /*`` prints what it is given."""
    listed = [word for word in words[1:] if word[:1] == "/" and "*" in word]
    return "\n".join(listed) if listed else None


_MADE: Final[dict[str, Made]] = {
    "cat": _same, "tee": _same, "head": _same, "tail": _same, "sort": _same, "uniq": _same,
    "base64": _base64, "base32": _base32, "xxd": _xxd, "openssl": _openssl,
    "gunzip": _gunzip, "zcat": _gunzip, "gzip": _gunzip, "bunzip2": _gunzip, "bzip2": _gunzip,
    "bzcat": _gunzip, "xz": _gunzip, "xzcat": _gunzip, "unxz": _gunzip,
    "rev": _rev, "tac": _tac, "tr": _tr, "sed": _sed, "which": _which, "command": _which,
    "mktemp": _mktemp, "basename": _basename, "dirname": _dirname, "seq": _seq, "ls": _ls,
}  # fmt: skip
