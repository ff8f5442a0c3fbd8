"""The network of VMs: what a type's may reach, which secrets go along, and how much may pass."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mulligan.network.injection import MOST_HOSTS
from mulligan.network.rules import parse

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OFFER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SOURCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")
NO_FULL = (
    '"full" is not offered: with the network of this machine a VM would reach its own services, '
    "the machines beside it and its cloud's keys, and nothing would be written down; use "
    '"allowlist", which with allow = ["*"] reaches every public host over HTTP and HTTPS'
)
NetworkMode = Literal["none", "allowlist"]
NETWORK_MODES = get_args(NetworkMode)


def checked_mode(value: object) -> object:
    """A network mode; for "full" the reason why it is none.

    Raises:
        ValueError: it is "full".
    """
    if value == "full":
        raise ValueError(NO_FULL)
    return value


def checked_entries(entries: list[str]) -> list[str]:
    """Entries of an allow-list, in their one form, each once.

    Raises:
        ValueError: one is none.
    """
    return list(dict.fromkeys(str(parse(entry)) for entry in entries))


class SecretSource(BaseModel):
    """A secret that programs use without having it.

    ``value_from`` is ``env:NAME`` or ``file:/path`` of the server, read when a VM boots; ``hosts``
    are entries as of an allow-list: the proxy puts the value in for these and for nobody else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value_from: str
    hosts: list[str] = Field(min_length=1, max_length=MOST_HOSTS)

    @field_validator("value_from")
    @classmethod
    def _known(cls, value: str) -> str:
        if not _SOURCE.fullmatch(value):
            raise ValueError("must be env:NAME or file:/path")
        return value

    @field_validator("hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        found = checked_entries(value)
        if any(parse(entry).host == "" for entry in found):
            raise ValueError("must name hosts: a secret for everybody is none")
        return found


class OfferedSecret(SecretSource):
    """A secret of the server's that requests may name, for ``hosts`` or fewer of them.

    ``agents`` are those who may; None: all.
    """

    agents: list[str] | None = None

    def is_for(self, agent_id: str) -> bool:
        """Whether an agent's requests may name it."""
        return self.agents is None or agent_id in self.agents


def checked_offers(offers: dict[str, OfferedSecret]) -> dict[str, OfferedSecret]:
    """Offered secrets by their names.

    Raises:
        ValueError: a name is none.
    """
    for name in offers:
        if not _OFFER.fullmatch(name):
            raise ValueError(f"{name[:100]!r} must be 1 to 64 letters, digits or . _ -")
    return offers


def checked_secrets(secrets: dict[str, SecretSource]) -> dict[str, SecretSource]:
    """Secrets by the names of variables.

    Raises:
        ValueError: a name is none.
    """
    for name in secrets:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:100]!r} is no name of a variable")
    return secrets


class NetworkSettings(BaseModel):
    """What each VM with a network is held to, all its programs together.

    ``max_connections`` are open at a time, ``new_per_second`` begun (more wait); ``header_kb``
    (KiB) is the longest head of a request or an answer. ``bytes_per_second`` and ``total_mb`` (MiB,
    until the VM is stopped) count both directions; 0: any amount. ``ca_file`` is what servers'
    certificates are held against where the proxy reads along to put secrets in; None: what this
    machine trusts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_connections: int = Field(default=256, ge=1, le=4096)
    new_per_second: int = Field(default=200, ge=1, le=100_000)
    header_kb: int = Field(default=64, ge=1, le=1024)
    header_seconds: float = Field(default=10.0, gt=0, le=600)
    idle_seconds: float = Field(default=300.0, gt=0, le=86400)
    connect_seconds: float = Field(default=10.0, gt=0, le=600)
    resolve_seconds: float = Field(default=5.0, gt=0, le=600)
    bytes_per_second: int = Field(default=0, ge=0)
    total_mb: int = Field(default=0, ge=0, le=2**40)
    ca_file: str | None = None
