"""Secrets that programs use without having them: a placeholder in the VM, the value on the way.

A placeholder is as long as its value, so that no length in a message has to change.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from mulligan.network.names import Host
from mulligan.network.rules import Rule, parse

FEWEST_CHARS = 8
MOST_CHARS = 4096
MOST_HOSTS = 64
_ALPHABET = string.ascii_letters + string.digits
_UNSAID = re.compile(r"[^\x21-\x7e]")


def check_value(value: str) -> None:
    """Refuses a value that could not be put into a request in place of a placeholder.

    Raises:
        ValueError: saying why; it does not quote the value.
    """
    if not FEWEST_CHARS <= len(value) <= MOST_CHARS:
        raise ValueError(f"must have {FEWEST_CHARS} to {MOST_CHARS} characters")
    if _UNSAID.search(value):
        raise ValueError("must be of visible ASCII characters, without blanks")


@dataclass(frozen=True)
class Injection:
    """One secret.

    Attributes:
        name: of the variable programs find the placeholder in.
        value: the secret.
        hosts: where it may go.
        placeholder: what stands for it in the VM.
    """

    name: str
    value: str = field(repr=False)
    hosts: tuple[Rule, ...]
    placeholder: str

    @classmethod
    def make(cls, name: str, value: str, hosts: Iterable[str]) -> Injection:
        """One with a new placeholder.

        Raises:
            ValueError: the value or a host does not fit.
        """
        check_value(value)
        placeholder = "".join(secrets.choice(_ALPHABET) for _ in value)
        return cls(name, value, tuple(parse(host) for host in hosts), placeholder)

    def goes_to(self, host: Host, port: int) -> bool:
        """Whether a host may be given it."""
        return any(rule.matches(host, port) for rule in self.hosts)


class Replacer:
    """Replaces texts in a stream, wherever it is cut; each by one of the same length.

    Args:
        pairs: what is replaced, and by what.
    """

    def __init__(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        self._to = dict(pairs)
        found = sorted(self._to, key=len, reverse=True)
        self._find = re.compile(b"|".join(re.escape(each) for each in found))
        self._longest = max((len(each) for each in found), default=0)
        self._held = b""
        self.replaced: set[bytes] = set()

    def feed(self, data: bytes) -> bytes:
        """What can be given out of what has come; the beginning of a text waits for the rest."""
        if not self._to:
            return data
        data = self._held + data
        pieces, start = [], 0
        for match in self._find.finditer(data):
            pieces += [data[start : match.start()], self._to[match[0]]]
            self.replaced.add(match[0])
            start = match.end()
        keep = self._beginning(data, start)
        self._held = data[len(data) - keep :] if keep else b""
        return b"".join([*pieces, data[start : len(data) - keep]])

    def finish(self) -> bytes:
        """What was still held back."""
        held, self._held = self._held, b""
        return held

    def _beginning(self, data: bytes, start: int) -> int:
        """How many of the last bytes may be the beginning of a text."""
        for size in range(min(len(data) - start, self._longest - 1), 0, -1):
            tail = data[len(data) - size :]
            if any(text.startswith(tail) for text in self._to):
                return size
        return 0


class Exchange:
    """One request to a host and its answer: values on the way there, placeholders on the way back.

    Args:
        injections: those the host may be given.
    """

    def __init__(self, injections: Sequence[Injection]) -> None:
        self._injections = injections
        self._there = [(each.placeholder.encode(), each.value.encode()) for each in injections]
        self._back = [(value, placeholder) for placeholder, value in self._there]
        self.body = Replacer(self._there)
        self._used: set[str] = set()

    def used(self) -> list[str]:
        """The names of the secrets that were put in."""
        used = self._used | {self._name(each) for each in self.body.replaced}
        return sorted(used)

    def _name(self, placeholder: bytes) -> str:
        return next(x.name for x in self._injections if x.placeholder.encode() == placeholder)

    def header(self, value: bytes) -> bytes:
        """A header of the request, also where a placeholder is in Basic credentials."""
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"basic" and self._injections:
            return self._basic(scheme, rest.strip()) or self._plain(value)
        return self._plain(value)

    def _plain(self, text: bytes) -> bytes:
        for placeholder, value in self._there:
            if placeholder in text:
                self._used.add(self._name(placeholder))
                text = text.replace(placeholder, value)
        return text

    def _basic(self, scheme: bytes, credentials: bytes) -> bytes | None:
        try:
            decoded = base64.b64decode(credentials, validate=True)
        except (binascii.Error, ValueError):
            return None
        filled = self._plain(decoded)
        if filled == decoded:
            return None
        encoded = base64.b64encode(filled)
        self._back.append((encoded, base64.b64encode(decoded)))
        return scheme + b" " + encoded

    def target(self, target: bytes) -> bytes:
        """The request's path and query."""
        for placeholder, value in self._there:
            if placeholder in target:
                self._used.add(self._name(placeholder))
                target = target.replace(placeholder, quote(value.decode(), safe="").encode())
        return target

    def answer(self) -> Replacer:
        """What takes the values out of the answer again."""
        return Replacer(self._back)

    def answer_header(self, value: bytes) -> bytes:
        """A header of the answer."""
        for text, placeholder in self._back:
            value = value.replace(text, placeholder)
        return value
