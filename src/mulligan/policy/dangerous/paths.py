"""Paths in one form, and the classes a path belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from mulligan.policy.dangerous.patterns import LONGEST, Globs, compiled
from mulligan.policy.dangerous.values import HOME, UNKNOWN

WORKSPACE: Final = "/workspace"
"""Where programs start; relative paths are below it."""

_USER = re.compile(r"/(?:home|Users)/(?:[^/]+(?=/)|[^/*?]+$)|/root(?=/|$)")
_SELF_ROOT = re.compile(r"/proc/(?:self|thread-self|\$\$)/root(?=/|$)")
_WILD = re.compile(r"[?\[]")

# What a path of wildcards (/???/b?sh) is tried against.
KNOWN_PATHS: Final = (
    "/bin/sh", "/bin/bash", "/bin/cat", "/bin/rm", "/bin/nc", "/bin/dd", "/bin/dash", "/bin/chmod",
    "/usr/bin/curl", "/usr/bin/wget", "/usr/bin/nc", "/usr/bin/base64", "/usr/bin/python3",
    "/usr/bin/perl", "/sbin/reboot", "/sbin/mkfs", "/sbin/halt", "/sbin/shutdown",
    "/etc/passwd", "/etc/shadow", "/etc/sudoers", "/etc/group",
    "/etc", "/usr", "/bin", "/var", "/home", "/boot", "/lib", "/dev/sda", "/dev/tcp",
)  # fmt: skip


def spelled_out(word: str) -> str:
    """A path of wildcards as the known path it stands for, else as it is."""
    if word.startswith("/") and len(word) < LONGEST and _WILD.search(word):
        pattern = _wildcards(word)
        for path in KNOWN_PATHS:
            if pattern is not None and pattern.fullmatch(path):
                return path
    return word


@lru_cache(maxsize=256)
def _wildcards(word: str) -> Globs | None:
    try:
        return compiled([word.replace("|", "")], of_paths=True)
    except ValueError:
        return None


def canonical(text: str, cwd: str = WORKSPACE) -> str:
    """A path with ``.``, ``..`` and doubled slashes resolved as far as its text tells.

    The home directory is ``~``, whoever's it is; what cannot be known is ``?``.
    """
    if len(text) > LONGEST:
        text = text[:LONGEST]
    text = text.removeprefix("file://")
    if text.startswith(HOME):
        text = "~" + text[1:]
    elif text[:1] == "~":
        text = "./" + text
    text = spelled_out(text).replace(UNKNOWN, "?").replace(HOME, "~")
    if not text.startswith(("/", "~", "?")):
        text = f"{cwd}/{text}"
    elif text.startswith("?") and not text.startswith("?/") and text != "?":
        return text  # "$name.txt": one segment that begins unknown
    return _folded(_resolved(text))


def _resolved(text: str) -> str:
    parts: list[str] = []
    absolute = text.startswith("/")
    for part in text.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            parts.append(part)
        elif parts and parts[-1] not in ("~", "?"):
            parts.pop()
        elif parts and parts[-1] == "~":
            parts[-1:] = ["/home"]
    root = "" if parts and not absolute else "/"
    return root + "/".join(parts)


def _folded(path: str) -> str:
    if path.startswith("/proc/"):
        path = _SELF_ROOT.sub("", path, count=1) or "/"
    match = _USER.match(path)
    if match and "**" not in match[0]:
        return "~" + path[match.end() :]
    return path


class Classes:
    """Named classes of paths, each a list of globs; one beginning with ``!`` takes out."""

    def __init__(self, globs: Mapping[str, list[str]]) -> None:
        """Compiles the classes.

        Raises:
            ValueError: a glob is not one.
        """
        self._classes = {}
        for name, patterns in globs.items():
            without = [glob[1:] for glob in patterns if glob.startswith("!")]
            self._classes[name] = (
                compiled([glob for glob in patterns if not glob.startswith("!")], of_paths=True),
                compiled(without, of_paths=True) if without else None,
            )
        self._of = lru_cache(maxsize=4096)(self._look)

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def of(self, path: str) -> frozenset[str]:
        """The classes a path in canonical form belongs to."""
        return self._of(path)

    def _look(self, path: str) -> frozenset[str]:
        return frozenset(
            name
            for name, (within, without) in self._classes.items()
            if within.fullmatch(path) and not (without and without.fullmatch(path))
        )
