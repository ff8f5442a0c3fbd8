"""One VM's network: the proxy while it is up, what programs find, and what they reached."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mulligan.drivers.interface import BootSpec, Machine
from mulligan.engine.vms.grants import Grants
from mulligan.errors import ConfigError, ExecutionFailed
from mulligan.log import get_logger
from mulligan.models import NetworkConnection
from mulligan.network.conversation import Terms
from mulligan.network.injection import Injection
from mulligan.network.limits import Limits
from mulligan.network.notes import enter
from mulligan.network.proxy import (
    ADDRESS,
    NOBODY,
    PORT,
    Entrance,
    ForeignSocketError,
    Listener,
    Owner,
    Proxy,
    check_listener,
)
from mulligan.network.resolving import Resolver
from mulligan.network.rules import AllowList
from mulligan.network.streams import Bucket
from mulligan.settings import NetworkSettings, VmType

if TYPE_CHECKING:
    from mulligan.engine.vms.connection import AgentConnection

log = get_logger()

MIB = 1024 * 1024
MOST_KNOWN = 4096
GRACE_S = 0.05
MOST_SECRET_BYTES = 64 * 1024
URL = f"http://{ADDRESS}:{PORT}"
BY_VARIABLE = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# Who keeps certificates of its own is told to use the VM's.
TRUST_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "npm_config_cafile",
)
Late = Callable[[str, NetworkConnection], None]


def limits_of(settings: NetworkSettings) -> Limits:
    """What the settings hold a VM to."""
    return Limits(
        connections=settings.max_connections,
        new_per_second=settings.new_per_second,
        header_bytes=settings.header_kb * 1024,
        header_seconds=settings.header_seconds,
        idle_seconds=settings.idle_seconds,
        connect_seconds=settings.connect_seconds,
        resolve_seconds=settings.resolve_seconds,
        bytes_per_second=settings.bytes_per_second,
        total_bytes=settings.total_mb * MIB,
    )


class Ledger:
    """What executions reached, until it is in the history."""

    def __init__(self, late: Late) -> None:
        self._late = late
        self._open: dict[str, list[NetworkConnection]] = {}

    def begin(self, execution_id: str) -> None:
        """From now on it is kept what an execution reaches."""
        self._open[execution_id] = []

    def add(self, execution_id: str, note: NetworkConnection) -> None:
        """Keeps one more; what comes after ``close`` goes into the history by itself."""
        notes = self._open.get(execution_id)
        if notes is None:
            self._late(execution_id, note)
        else:
            enter(notes, note)

    def so_far(self, execution_id: str) -> list[NetworkConnection]:
        """What an execution has reached."""
        return list(self._open.get(execution_id, ()))

    def close(self, execution_id: str, written: int) -> None:
        """So much of it is in the history; what came meanwhile follows by itself."""
        for note in self._open.pop(execution_id, [])[written:]:
            self._late(execution_id, note)


@dataclass(frozen=True)
class Policy:
    """What one VM may reach.

    Attributes:
        vm_type: the name of its type.
        of_type: that type.
        allow: the VM's own list, if it has one.
        settings: see the class.
        trust: where the certificates its programs trust are written.
        offers: whether requests may name secrets for hosts it may reach.
    """

    vm_type: str
    of_type: VmType
    allow: list[str] | None
    settings: NetworkSettings
    trust: Path
    offers: bool = False

    def allowed(self) -> AllowList:
        """Both lists."""
        return AllowList(self.of_type.allow, self.allow)

    def shown(self) -> list[str]:
        """The list in force, for users."""
        return self.of_type.allow if self.allow is None else self.allow


class VmNetwork:
    """The way of one VM's programs to others.

    Args:
        policy: what they may reach.
        agent_id: whose they are; empty where the VM is nobody's yet.
        resolver: turns names into addresses.
        learn: told the secrets of an agent's VM, which must not come out of it.
        late: called with what is known of an agent's execution only after its end.
    """

    def __init__(
        self,
        policy: Policy,
        agent_id: str,
        resolver: Resolver,
        learn: Callable[[str, Mapping[str, str]], None],
        late: Callable[[str, str, NetworkConnection], None],
    ) -> None:
        self._agent_id = agent_id
        self.policy = policy
        self._resolver = resolver
        self._learn = learn
        self.ledger = Ledger(lambda execution_id, note: late(self._agent_id, execution_id, note))
        self._terms: Terms | None = None
        self._grants = Grants()
        self._proxy: Proxy | None = None
        self._connection: AgentConnection | None = None
        self._channels: OrderedDict[int, str] = OrderedDict()
        self._running: set[str] = set()

    # The VM

    def prepare(self, spec: BootSpec) -> BootSpec:
        """What the VM boots with. Blocks.

        Raises:
            ConfigError: a secret cannot be had, or nobody could be made to trust the proxy.
        """
        policy = self.policy
        limits = limits_of(policy.settings)
        allowed = policy.allowed()
        injections = [self._injection(name) for name in policy.of_type.secrets]
        terms = Terms(
            allowed,
            limits,
            self._resolver,
            injections,
            bucket=Bucket(limits.bytes_per_second),
            pace=Bucket(limits.new_per_second),
        )
        environment = variables(allowed) | {each.name: each.placeholder for each in injections}
        files = {}
        if injections or policy.offers:
            self._tell_secrets(injections)
            inside = self._trust(terms, spec)
            environment |= dict.fromkeys(TRUST_VARIABLES, inside)
            files = {inside: policy.trust}
        self._terms = terms
        self._grants.boots(terms)
        return replace(spec, network=True, environment=environment, files=files)

    def lease(self, agent_id: str, trust: Path) -> None:
        """A VM that was nobody's is an agent's from now on."""
        self._agent_id, self.policy = agent_id, replace(self.policy, trust=trust)
        if self._terms is not None:
            self._tell_secrets(self._terms.injections)

    def _tell_secrets(self, injections: list[Injection]) -> None:
        self._learn(self._agent_id, {each.name: each.value for each in injections})

    def _injection(self, name: str) -> Injection:
        source = self.policy.of_type.secrets[name]
        try:
            value = read_secret(source.value_from)
            return Injection.make(name, value, source.hosts)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            field = f"vm_types.{self.policy.vm_type}.secrets.{name}.value_from"
            raise ConfigError(f"{source.value_from}: {why}", field=field) from None

    def _trust(self, terms: Terms, spec: BootSpec) -> str:
        """Makes the VM's own authority, and the file that has its programs trust it."""
        from mulligan.network import authority  # noqa: PLC0415  (heavy, and seldom needed)

        found = spec.image.bundle(authority.BUNDLES)
        if found is None:
            raise ConfigError(
                "the image has no file of certificates, which programs have to trust the proxy by",
                field=f"vm_types.{self.policy.vm_type}.secrets"
                if self.policy.of_type.secrets
                else "offered_secrets",
                remedy="install ca-certificates, or take the secrets away",
            )
        terms.authority = authority.Authority()
        inside, bundle = found
        self.policy.trust.write_text(f"{bundle.rstrip()}\n{terms.authority.pem()}")
        self.policy.trust.chmod(0o644)
        try:
            terms.trusted = ssl.create_default_context(cafile=self.policy.settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.policy.settings.ca_file}: {error}", field="network.ca_file"
            ) from None
        terms.trusted.set_alpn_protocols(["http/1.1"])
        return inside

    def up(self, machine: Machine, connection: AgentConnection) -> None:
        """Begins to serve a VM that has booted.

        Raises:
            ExecutionFailed: it handed over nothing to serve it by.
        """
        assert self._terms is not None
        idle = self._terms.limits.idle_seconds
        entrance: Entrance
        if machine.boot_frame.get("links"):
            entrance = connection.link(idle)
        else:
            entrance = Listener(_received(machine.network), idle)
        self._connection = connection
        self._proxy = Proxy(entrance, self._terms, self._ask, self._note)
        self._proxy.start()

    async def down(self) -> None:
        """Closes everything; the VM is about to end."""
        proxy, self._proxy = self._proxy, None
        self._connection = None
        if proxy is not None:
            await proxy.close()
        self._channels.clear()

    async def close_connections(self) -> None:
        """Closes what is open: the VM is taken back to before it."""
        if self._proxy is not None:
            await self._proxy.close_connections()

    # Executions

    def grant(self, execution_id: str, wanted: list[Injection]) -> list[Injection]:
        """See ``Grants.grant``."""
        return self._grants.grant(execution_id, wanted)

    def not_started(self, execution_id: str) -> None:
        """See ``Grants.not_started``."""
        self._grants.not_started(execution_id)

    def began(self, execution_id: str, channel: int) -> None:
        """An execution has started."""
        self._grants.began(execution_id)
        self._channels[channel] = execution_id
        if len(self._channels) > MOST_KNOWN:
            self._channels.popitem(last=False)
        self._running.add(execution_id)
        self.ledger.begin(execution_id)

    async def ended(self, execution_id: str, *, goes_on: bool) -> list[NetworkConnection]:
        """What an execution reached; what it has open is closed. ``ledger.close`` has to follow.

        Args:
            execution_id: it has ended.
            goes_on: whether something of it still runs, or is a kernel, and keeps what is open.
        """
        if execution_id not in self._running:
            return []
        if self._proxy is not None:
            await self._proxy.owners_known()
            if not goes_on:
                await self._proxy.close_of(execution_id, GRACE_S)
        self._running.discard(execution_id)
        self._grants.ended(execution_id, goes_on=goes_on)
        return self.ledger.so_far(execution_id)

    async def _ask(self, port: int) -> Owner:
        """Whose a connection is, by what the agent sees; else whoever runs."""
        connection = self._connection
        if connection is None:
            return NOBODY
        try:
            channels = await connection.owners(port)
        except ExecutionFailed:
            return NOBODY
        known = tuple(self._channels[each] for each in channels if each in self._channels)
        if known:
            return Owner(known, certain=len(known) == 1)
        return Owner(tuple(sorted(self._running)), certain=False)

    def _note(self, owner: Owner, note: NetworkConnection) -> None:
        log.info(
            "connection",
            execution_ids=list(owner.executions),
            certain=owner.certain,
            host=note.host,
            port=note.port,
            verdict=note.verdict,
            reason=note.reason,
            bytes_up=note.bytes_up,
            bytes_down=note.bytes_down,
        )
        for execution_id in owner.executions:
            self.ledger.add(execution_id, note)


def variables(allowed: AllowList) -> dict[str, str]:
    """What tells programs of the proxy.

    Their own servers on the loopback of the VM are reached without it; where an address of the
    loopback is on the allow-list, it is the host's that is meant.
    """
    own = ["localhost", *({"127.0.0.1", "::1"} - set(allowed.loopback()))]
    without = ",".join(sorted(own))
    proxies = dict.fromkeys(BY_VARIABLE, URL) | {"NO_PROXY": without}
    return (
        proxies
        | {name.lower(): value for name, value in proxies.items()}
        | {"NODE_USE_ENV_PROXY": "1", "npm_config_noproxy": without}
    )


def read_secret(source: str) -> str:
    """A secret from where the settings say it is, a file's without its last line break.

    Raises:
        OSError: the file cannot be read.
        ValueError: there is no such variable, or the file is no text or too long.
    """
    kind, _, name = source.partition(":")
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise ValueError("there is no such variable in the server's environment")
        return value
    with Path(name).open("rb") as file:
        data = file.read(MOST_SECRET_BYTES + 1)
    if len(data) > MOST_SECRET_BYTES:
        raise ValueError("is too long for a secret")
    return data.decode().rstrip("\r\n")


def _received(way: socket.socket | None) -> socket.socket:
    """The socket a VM's agent has sent."""
    if way is None:
        raise ExecutionFailed("the VM could not boot: its driver gives it no network")
    with way:
        way.setblocking(False)
        try:
            _, descriptors, _, _ = socket.recv_fds(way, 1, 1)
        except BlockingIOError:
            descriptors = []
    if len(descriptors) != 1:
        raise ExecutionFailed("the VM could not boot: it handed over no socket for its network")
    with contextlib.ExitStack() as stack:
        listener = socket.socket(fileno=descriptors[0])
        stack.callback(listener.close)
        try:
            check_listener(listener)
        except ForeignSocketError as error:
            raise ExecutionFailed(f"the VM could not boot: its network: {error}") from None
        stack.pop_all()
    return listener
