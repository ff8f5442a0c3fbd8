"""Secrets that requests name and programs use without having them.

A request says which of the operator's ``offered_secrets`` it wants under which name, and for which
hosts. Its program finds a placeholder; the proxy of its VM puts the value in, as for the secrets of
a VM's type (docs/network.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from mulligan.engine.vms.network import read_secret
from mulligan.errors import ConfigError, ValidationFailed
from mulligan.log import get_logger
from mulligan.models import SecretReference, VmExecuteRequest
from mulligan.network.injection import MOST_HOSTS, Injection
from mulligan.network.rules import parse, uncovered
from mulligan.settings import Settings

if TYPE_CHECKING:
    from mulligan.engine.vms.vm import Vm

log = get_logger()

MOST_REFERENCES = 16
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def given(request: VmExecuteRequest) -> dict[str, str]:
    """The secrets a request brings along: their values are the program's."""
    secrets = request.secrets or {}
    return {name: value for name, value in secrets.items() if isinstance(value, str)}


def named(request: VmExecuteRequest) -> dict[str, SecretReference]:
    """The secrets a request only names."""
    secrets = request.secrets or {}
    return {name: each for name, each in secrets.items() if isinstance(each, SecretReference)}


def described(request: VmExecuteRequest) -> dict[str, str]:
    """What is named, in words; the same for the same request, as placeholders are not."""
    return {
        name: f"the secret {each.value_from}, for {', '.join(each.hosts)}"
        for name, each in named(request).items()
    }


def check_named(request: VmExecuteRequest, settings: Settings) -> None:
    """Refuses what is not offered to the request's agent, or not for these hosts.

    Raises:
        ValidationFailed: naming the field.
    """
    references = named(request)
    if len(references) > MOST_REFERENCES:
        raise ValidationFailed(
            f"secrets name more than {MOST_REFERENCES} of the server's", field="secrets"
        )
    for name, wanted in references.items():
        if not _NAME.fullmatch(name):
            raise ValidationFailed(
                f"secrets has a name that is none: {name[:100]!r}",
                field="secrets",
                remedy="use letters, digits and _, not starting with a digit",
            )
        _check_offered(name, wanted, request.agent_id, settings)


def _check_offered(name: str, wanted: SecretReference, agent_id: str, settings: Settings) -> None:
    field = f"secrets.{name}.value_from"
    offered = settings.offered_secrets.get(wanted.value_from)
    if offered is None or not offered.is_for(agent_id):
        known = [each for each, one in settings.offered_secrets.items() if one.is_for(agent_id)]
        raise ValidationFailed(
            f"{field}: this server offers {agent_id} no secret {wanted.value_from[:100]!r}",
            field=field,
            remedy=f"use one of: {', '.join(sorted(known))}"
            if known
            else "its operator declares them in the settings, offered_secrets",
        )
    field = f"secrets.{name}.hosts"
    if not 1 <= len(wanted.hosts) <= MOST_HOSTS:
        raise ValidationFailed(f"{field} must have 1 to {MOST_HOSTS} entries", field=field)
    try:
        beyond = uncovered(wanted.hosts, offered.hosts)
        everybody = any(parse(entry).host == "" for entry in wanted.hosts)
    except ValueError as error:
        raise ValidationFailed(f"{field}: {error}", field=field) from None
    if beyond is not None or everybody:
        raise ValidationFailed(
            f"{field}: {wanted.value_from} is not for {beyond or '*'}",
            field=field,
            remedy=f"it is offered for: {', '.join(offered.hosts)}",
        )


def check_reachable(request: VmExecuteRequest, vm: Vm) -> None:
    """Refuses what could go nowhere from a VM.

    Raises:
        ValidationFailed: it has no network, or may not reach the hosts.
    """
    for name, wanted in named(request).items():
        if vm.network is None:
            raise ValidationFailed(
                f"secrets.{name}: {vm.record.id} has no network, and its programs are not given "
                "the value",
                field=f"secrets.{name}",
                remedy='use a VM of a type with network = "allowlist"',
            )
        policy = vm.network.policy
        for allow in (policy.of_type.allow, policy.allow):
            beyond = uncovered(wanted.hosts, allow) if allow is not None else None
            if beyond is not None:
                field = f"secrets.{name}.hosts"
                raise ValidationFailed(
                    f"{field}: {vm.record.id} may not reach {beyond}",
                    field=field,
                    remedy=f"it may reach: {', '.join(policy.shown()[:20])}",
                )


class Offers:
    """Gives executions placeholders for what their requests name.

    Args:
        settings: what is offered.
        learn: told the values an agent's programs use, which must not come out.
    """

    def __init__(self, settings: Settings, learn: Callable[[str, Mapping[str, str]], None]) -> None:
        self._settings = settings
        self._learn = learn

    @asynccontextmanager
    async def placeholders(
        self, request: VmExecuteRequest, vm: Vm, execution_id: str
    ) -> AsyncIterator[dict[str, str]]:
        """Variables of an execution; its proxy knows them from its start to its end.

        Raises:
            ConfigError: the server does not have a value.
        """
        references = named(request)
        if not references or vm.network is None:
            yield {}
            return
        made = await asyncio.to_thread(
            lambda: [self._injection(name, each) for name, each in references.items()]
        )
        self._learn(request.agent_id, {each.name: each.value for each in made})
        granted = vm.network.grant(execution_id, made)
        try:
            yield {each.name: each.placeholder for each in granted}
        finally:
            vm.network.not_started(execution_id)

    def _injection(self, name: str, wanted: SecretReference) -> Injection:
        source = self._settings.offered_secrets[wanted.value_from].value_from
        try:
            return Injection.make(name, read_secret(source), wanted.hosts)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            field = f"offered_secrets.{wanted.value_from}.value_from"
            # Where it is kept is the operator's business, and not the agent's.
            log.error("secret_not_had", field=field, source=source, reason=why)  # noqa: TRY400
            raise ConfigError(
                f"the server does not have the secret {wanted.value_from}; its log says why",
                field=field,
            ) from None
