"""What well-known programs read, write, delete and send, from their words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mulligan.policy.dangerous.events import Command
from mulligan.policy.dangerous.shell.finding import filters, names, takes_old
from mulligan.policy.dangerous.shell.redirect import write
from mulligan.policy.dangerous.values import NO_TAGS, UNKNOWN, Text, anything

if TYPE_CHECKING:
    from mulligan.policy.dangerous.shell.invocation import Invocation
    from mulligan.policy.dangerous.shell.walk import Shell

READERS: Final = frozenset({
    "cat", "tac", "nl", "less", "more", "head", "tail", "base64", "base32", "xxd", "od", "hexdump",
    "strings", "grep", "egrep", "fgrep", "rg", "awk", "gawk", "sed", "cut", "sort", "uniq", "tar",
    "zip", "gzip", "bzip2", "xz", "7z", "cp", "mv", "rsync", "scp", "diff", "openssl", "gpg", "jq",
    "sqlite3", "vim", "vi", "nano", "view", "paste", "rev", "pr", "fold", "install", "curl", "wget",
    "ln", "bat", "batcat", "unshadow", "john", "hashcat", "md5sum", "ssh2john", "ar",
    "cpio", "pax", "tee", "split", "csplit", "comm", "join", "expand", "iconv", "look", "column",
    "dump", "7za", "zstd", "lz4", "qrencode", "sftp", "xclip", "pbcopy", "mail", "mutt", "uuencode",
    "emacs", "dosbox", "ed", "mapfile", "source", ".", "read", "wc",
})  # fmt: skip
_PATTERN_FIRST: Final = frozenset({"grep", "egrep", "fgrep", "rg", "awk", "gawk", "sed", "jq"})
SENDERS: Final = frozenset({
    "curl", "wget", "nc", "ncat", "netcat", "nc.traditional", "nc.openbsd", "socat", "telnet",
    "scp",
    "rsync", "sftp", "ftp", "ssh", "http", "https", "xh", "mail", "mailx", "mutt", "sendmail",
    "dig",
    "nslookup", "host", "drill", "ping", "openssl", "aws", "gsutil", "rclone", "s3cmd", "tftp",
    "lftp",
    "httpie", "sendemail", "swaks", "transfer", "cryptcat", "sbd", "websocat", "mosquitto_pub",
    "ncftpput", "curlftpfs", "az", "gcloud", "wormhole", "croc", "gist", "pastebinit", "gh",
})  # fmt: skip
_COPIERS: Final = frozenset({"cp", "mv", "install", "ln", "rsync"})
_FILE_OPTIONS: Final = frozenset({"-T", "--upload-file", "--post-file", "--body-file", "-a", "-A"})
_REMOTE: Final = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)")
_URL: Final = re.compile(r"^(?:https?|ftp)://[^/]+/?(.*?)(?:[?#].*)?$", re.DOTALL)
NETWORK: Final = frozenset({"network"})
_STREAMS: Final = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/")
_MANIFEST: Final = 20_000


def operands(words: list[Text], valued: str = "") -> list[Text]:
    """The words that are no options, those of ``valued`` single-letter options left out."""
    found: list[Text] = []
    at = 1
    only = False
    while at < len(words):
        word = words[at].text
        if only or word[:1] != "-" or word == "-":
            found.append(words[at])
        elif word == "--":
            only = True
        elif len(word) == 2 and word[1] in valued:
            at += 1
        at += 1
    return found


def of_command(shell: Shell, invocation: Invocation) -> None:
    """Judges what a program would do to files and over the network."""
    name = invocation.name
    if name in READERS:
        _reads(shell, invocation, name)
    if name in SENDERS:
        _sends(shell, invocation, name)
    handler = _HANDLERS.get(name)
    if handler is not None:
        handler(shell, invocation)


def _reads(shell: Shell, invocation: Invocation, name: str) -> None:
    paths = operands(invocation.arguments, "io" if name in ("scp", "sftp", "curl") else "")
    if name in _PATTERN_FIRST:
        paths = paths[1:]
    elif name == "tar":
        paths = _below_directory(invocation.arguments)
    elif name in _COPIERS and len(paths) > 1:
        paths = paths[:-1]
    for word in paths:
        path = shell.canonical(Text(word.text.partition("@")[2] or word.text))
        shell.judgement.effect("read", invocation.place, path)
    for word in _uploaded(invocation.arguments):
        shell.judgement.effect("read", invocation.place, shell.canonical(word))


def _below_directory(words: list[Text]) -> list[Text]:
    """What ``tar -C directory`` reads: names after it are below the directory."""
    found: list[Text] = []
    directory = ""
    for at, word in enumerate(words[1:], 1):
        if words[at - 1].text in ("-C", "--directory"):
            directory = f"{word.text}/"
        elif word.text[:1] != "-":
            found.append(Text(directory + word.text, word.tags) if word.text[:1] != "/" else word)
    return found


def read_tags(shell: Shell, words: list[Text]) -> frozenset[str]:
    """The tags of what is in the files that words name."""
    tags = NO_TAGS
    for word in words[1:]:
        if word.text[:1] == "-" or not word.text:
            continue
        path = shell.canonical(word)
        known = shell.judgement.files.get(path)
        tags |= known.tags if known is not None else shell.judgement.classes(path) & FOLLOWED
    return tags


FOLLOWED: Final = frozenset({"secret", "account-list", "zeros"})


def _uploaded(words: list[Text]) -> list[Text]:
    """Files a program sends because of its options: ``-d @file``, ``-F x=@file``, ``-T file``."""
    found = []
    for at, word in enumerate(words[1:], 1):
        text = word.text
        if words[at - 1].text in _FILE_OPTIONS:
            found.append(word)
        elif text.startswith(("--upload-file=", "--post-file=", "--body-file=", "--data-binary=@")):
            found.append(Text(text.partition("=")[2].lstrip("@")))
        else:
            match = re.match(r"(?:-d|-F|--data=|--form=)?(?:[\w.-]*=)?[@<]([^;]+)", text)
            if match and len(text) < 400:
                found.append(Text(match[1]))
    return found


def _sends(shell: Shell, invocation: Invocation, name: str) -> None:
    words = invocation.arguments
    tags = invocation.stdin.tags if invocation.stdin is not None else NO_TAGS
    tags |= read_tags(shell, [words[0], *_uploaded(words)])
    for word in words[1:]:
        tags |= word.tags
    if name in ("scp", "rsync", "sftp", "aws", "gsutil", "rclone", "s3cmd"):
        paths = operands(words, "ioPeF")
        if any(_REMOTE.match(p.text) or "://" in p.text for p in paths[-1:]):
            tags |= read_tags(shell, [words[0], *paths[:-1]])
    if name == "openssl" and (len(words) < 2 or words[1].text != "s_client"):
        return
    if name == "socat":
        for word in words[1:]:
            file = re.match(r"(?:FILE|OPEN|GOPEN):([^,]+)", word.text, re.IGNORECASE)
            if file:
                tags |= read_tags(shell, [words[0], Text(file[1])])
    if tags:
        shell.judgement.effect("send", invocation.place, tags=tags)


# What is deleted and written


def _deleted(shell: Shell, invocation: Invocation, words: list[Text], *flags: str) -> None:
    for word in words:
        if not word.text:
            continue
        path = shell.canonical(word)
        given = frozenset(flags)
        if not path.strip("?/*"):
            given |= {"unknown"}
        if "old" in word.tags:
            given |= {"old"}
        shell.judgement.effect("delete", invocation.place, path, tags=word.tags, flags=given)


def _rm(shell: Shell, invocation: Invocation) -> None:
    options = [a.text for a in invocation.arguments[1:] if a.text[:1] == "-"]
    recursive = any(
        "recursive".startswith(o[2:]) if o.startswith("--") and o[2:] else "r" in o.lower()
        for o in options
        if o != "--no-preserve-root"
    )
    flags = ("recursive",) if recursive or any(UNKNOWN in o for o in options) else ()
    _deleted(shell, invocation, operands(invocation.arguments), *flags)


def _shred(shell: Shell, invocation: Invocation) -> None:
    paths = operands(invocation.arguments, "ns")
    _deleted(shell, invocation, paths, "overwritten")
    for word in paths:
        path = shell.canonical(word)
        if path.startswith("/dev/"):
            shell.judgement.effect("write", invocation.place, path)


def _find(shell: Shell, invocation: Invocation) -> None:
    words = invocation.arguments
    texts = [word.text for word in words]
    roots = []
    for word in words[1:]:
        if word.text[:1] in ("-", "(", "!"):
            break
        roots.append(word)
    if "-delete" in texts:
        flags = ["recursive"]
        if filters(words):
            flags.append("filtered")
        if not names(words):
            flags.append("whatever")
        if takes_old(words):
            flags.append("old")
        _deleted(shell, invocation, roots, *flags)


def _copied(shell: Shell, invocation: Invocation) -> None:
    words = operands(invocation.arguments, "mogSt")
    if len(words) < 2:
        return
    *sources, target = words
    name = invocation.name
    to = shell.canonical(target)
    if name == "mv":
        flags = ("recursive",) if to == "/dev/null" else ("moved",)
        _deleted(shell, invocation, sources, *flags)
    there = _REMOTE.match(target.text) or re.match(r"[^/]*@[^/]*:", target.text)
    if (
        name == "rsync"
        and not there
        and any(a.text.startswith("--delete") for a in invocation.arguments)
    ):
        _deleted(shell, invocation, [target], "recursive")
    if name == "ln":
        for source in sources:
            shell.judgement.effect("link", invocation.place, shell.canonical(source))
    if name == "ln" and all(source.text.startswith(_STREAMS) for source in sources):
        return  # a log that goes to the container's own
    for source in sources[:8]:
        content = shell.judgement.files.get(shell.canonical(source)) or anything(
            read_tags(shell, [target, source])
        )
        alone = len(sources) == 1 and not target.text.endswith(("/", "/.", "/.."))
        alone = alone and target.text not in (".", "..")
        place = to if alone else f"{to}/{source.text.rpartition('/')[2]}"
        write(shell, place, content, invocation.place, append=False)


def _written(shell: Shell, invocation: Invocation) -> None:
    append = any(a.text in ("-a", "--append") for a in invocation.arguments)
    content = invocation.stdin or anything()
    for word in operands(invocation.arguments, "s"):
        write(shell, shell.canonical(word), content, invocation.place, append=append)


def _sed(shell: Shell, invocation: Invocation) -> None:
    texts = [a.text for a in invocation.arguments]
    if any(re.match(r"-[nEr]*i|--in-place", text) for text in texts):
        for word in operands(invocation.arguments)[1:]:
            path = shell.canonical(word)
            shell.judgement.effect("write", invocation.place, path, flags=frozenset({"edit"}))
    for text in texts[1:]:
        command = re.match(r"(?:\d+|\$)?e (.+)|1e(?P<c>.+)", text, re.DOTALL)
        if command:
            code = Text(command[1] or command["c"])
            shell.judgement.runs(code, "bash", invocation.place)


def _dd(shell: Shell, invocation: Invocation) -> None:
    limited = any(a.text.startswith("count=") for a in invocation.arguments)
    source = anything()
    for word in invocation.arguments[1:]:
        key, _, value = word.text.partition("=")
        path = shell.canonical(Text(value))
        if key == "if":
            shell.judgement.effect("read", invocation.place, path)
            source = anything(read_tags(shell, [word, Text(value)]) - {"zeros"})
    for word in invocation.arguments[1:]:
        key, _, value = word.text.partition("=")
        if key == "of":
            flags = frozenset({"replace"} if limited else {"replace", "endless"})
            path = shell.canonical(Text(value))
            shell.judgement.effect("write", invocation.place, path, tags=source.tags, flags=flags)


def _made(shell: Shell, invocation: Invocation) -> None:
    """Programs that write to what they are given."""
    for word in operands(invocation.arguments, "sLtTUNFn"):
        path = shell.canonical(word)
        shell.judgement.effect("write", invocation.place, path, flags=frozenset({"replace"}))


def _fetched(shell: Shell, invocation: Invocation) -> None:
    """Files that come over the network: ``curl -o``, ``wget``."""
    words = invocation.arguments
    named = _named(words, invocation.name) or _named_by_url(words, invocation.name)
    for at, word in enumerate(words[:-1]):
        if word.text in ("-P", "--directory-prefix", "-d") and invocation.name != "curl":
            named = [Text(f"{words[at + 1].text}/{name.text}") for name in named]
    for word in named:
        if word.text not in ("-", "/dev/stdout", "/dev/null"):
            write(shell, shell.canonical(word), anything(NETWORK), invocation.place, append=False)


def _copied_from(shell: Shell, invocation: Invocation) -> None:
    """Files that come from another host: ``scp host:file .``."""
    paths = operands(invocation.arguments, "ioPFcJlS")
    if len(paths) < 2 or not any(_REMOTE.match(path.text) for path in paths[:-1]):
        return
    for path in paths[:-1]:
        name = path.text.rpartition(":")[2].rpartition("/")[2]
        whole = paths[-1].text in (".", "..") or paths[-1].text.endswith("/")
        target = Text(f"{paths[-1].text}/{name}") if whole else paths[-1]
        write(shell, shell.canonical(target), anything(NETWORK), invocation.place, append=False)


def _applied(shell: Shell, invocation: Invocation) -> None:
    """Manifests that ``kubectl apply -f`` and its like are given, as words for the rules."""
    words = invocation.arguments
    for at, word in enumerate(words):
        if word.text not in ("-f", "--filename"):
            continue
        name = words[at + 1] if at + 1 < len(words) else Text("-")  # "-" before <<
        known = shell.judgement.files.get(shell.canonical(name))
        content = invocation.stdin if name.text == "-" else known
        if content is not None:
            text = re.sub(r"[\"'{},-]|(?<=:)\s+", "", content.text[:_MANIFEST])
            manifest = [Text(re.sub(r"\s+", " ", text) + " ")]
            shell.judgement.emit(Command("manifest", manifest, invocation.place))


def _named(words: list[Text], program: str) -> list[Text]:
    """Files that options name."""
    named = []
    for at, word in enumerate(words[1:], 1):
        previous = words[at - 1].text
        option = re.fullmatch(r"-[a-zA-Z]*[oO]|--output|--output-document|--out", previous)
        if option and not (previous.endswith("O") and program == "curl"):
            named.append(word)
        elif re.match(r"-[oO][^-\s]|--output=|--output-document=|--out=", word.text):
            long = word.text.startswith("--")
            named.append(Text(word.text.partition("=")[2] if long else word.text[2:]))
    return named


def _named_by_url(words: list[Text], program: str) -> list[Text]:
    """Files named as the last part of their address."""
    remote = re.compile(r"-[a-zA-Z]*O[a-zA-Z]*|--remote-name(-all)?")
    if program == "curl" and not any(remote.fullmatch(word.text) for word in words):
        return []
    urls = [_URL.match(word.text) for word in words[1:]]
    names = [url[1].rpartition("/")[2] for url in urls if url]
    return [Text(name) for name in names if name]


_HANDLERS: Final = {
    "rm": _rm,
    "rmdir": _rm,
    "unlink": _rm,
    "srm": _rm,
    "shred": _shred,
    "wipe": _shred,
    "find": _find,
    **dict.fromkeys(_COPIERS, _copied),
    "tee": _written,
    "sponge": _written,
    "sed": _sed,
    "perl": _sed,
    "dd": _dd,
    "dcfldd": _dd,
    "truncate": _made,
    **dict.fromkeys(("curl", "wget", "aria2c", "axel", "fetch"), _fetched),
    "scp": _copied_from,
    **dict.fromkeys(("kubectl", "oc"), _applied),
}  # fmt: skip
