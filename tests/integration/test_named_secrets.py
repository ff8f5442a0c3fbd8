"""Secrets that requests name: what is offered, what is refused, and where the value gets to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mulligan import VmExecuteRequest, VmExecuteResponse
from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import ApprovalRequired, ConfigError, ValidationFailed
from mulligan.models import ApprovalAnswer, ParseExecuteRequest, SecretReference, VmCreateRequest
from mulligan.network.addresses import Address
from mulligan.network.authority import Authority
from support import host
from support.upstream import Upstream, listening

pytestmark = pytest.mark.anyio
VALUE = "made-up-value-" + "0815"
USE = 'curl -sS -H "Authorization: Bearer $KEY" {}'


@pytest.fixture(autouse=True)
def _value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_KEY", VALUE)
    monkeypatch.setenv("NOT_OFFERED", "another-made-up-value")


class Agent:
    """Runs programs on an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def run(self, code: str, hosts: list[str], **more: Any) -> VmExecuteResponse:
        secrets = {"KEY": SecretReference(value_from="key", hosts=hosts)}
        return await self.plain(code, **{"secrets": secrets} | more)

    async def plain(self, code: str, **more: Any) -> VmExecuteResponse:
        asked = {"agent_id": "a", "language": "bash", "code": code} | more
        return await self.engine.execute(VmExecuteRequest(**asked))


@asynccontextmanager
async def offering(
    allow: list[str], offered: dict[str, Any], *, resolver: Any = None, **options: Any
) -> AsyncIterator[Agent]:
    with host.data_directory() as directory:
        settings = settings_module.load(
            data_dir=directory,
            vm_types={"focal-optimized": {"network": "allowlist", "allow": allow}, "closed": {}},
            offered_secrets={"key": {"value_from": "env:MADE_UP_KEY"} | offered},
            **options,
        )
        async with Engine(settings, resolver=resolver) as engine:
            yield Agent(engine)


@pytest.mark.usefixtures("each_driver")
async def test_it_reaches_who_it_is_for_and_nobody_else() -> None:
    host.check_has_what_it_types(USE)
    body = b"it was " + VALUE.encode()
    named = Upstream(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    other = Upstream()
    async with listening(named.serve) as port, listening(other.serve) as elsewhere:
        here, there = f"127.0.0.1:{port}", f"127.0.0.1:{elsewhere}"
        async with offering([here, there], {"hosts": [here, there]}) as agent:
            code = f"{USE.format(here)} | sed s/$KEY/placeholder/; {USE.format(there)}; env"
            done = await agent.run(code, [here])
            assert done.stdout.startswith("it was placeholder"), done.stderr
            assert VALUE not in done.stdout
            assert f"Bearer {VALUE}\r\n".encode() in named.heads[0]
            assert VALUE.encode() not in other.heads[0]
            row = agent.engine.history.get(done.execution_id)
            assert row is not None
            assert [each.secrets for each in row.network] == [["KEY"], []]
            assert VALUE not in row.model_dump_json()
            # Its end is the placeholder's, too; another execution has another.
            await agent.run("echo $KEY > kept", [here])
            await agent.plain(f"KEY=$(cat kept); {USE.format(here)}")
            assert VALUE.encode() not in named.heads[1]
            await agent.plain(f"echo ${{KEY:-none}}; {USE.format(here)}")
            assert len(named.heads) == 3
            assert VALUE.encode() not in named.heads[2]


@pytest.mark.long
@pytest.mark.usefixtures("each_driver")
async def test_it_lasts_with_a_kernel_and_what_runs_in_the_background() -> None:
    host.check_has_what_it_types(USE)
    server = Upstream()
    async with listening(server.serve) as port:
        here = f"127.0.0.1:{port}"
        async with offering([here], {"hosts": [here]}) as agent:
            first = await agent.run("echo $KEY", [here], kernel="k")
            await agent.plain(USE.format(here), kernel="k")
            assert VALUE.encode() in server.heads[0]
            again = await agent.run("echo $KEY", [here])
            assert again.stdout == first.stdout  # the same, as long as it lasts
            await agent.engine.fleet.find(first.vm_id).stop()
            await agent.plain(f"KEY={first.stdout.strip()}; {USE.format(here)}")
            assert VALUE.encode() not in server.heads[1]


async def to_loopback(name: str) -> Sequence[Address]:
    if name != "server.example":
        raise OSError("no such name")
    return [ip_address("127.0.0.1")]


@pytest.mark.long
@pytest.mark.usefixtures("each_driver")
async def test_https(tmp_path: Path) -> None:
    host.check_has_what_it_types(USE)
    known = Authority()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_text(known.pem())
    server = Upstream()
    async with listening(server.serve, ssl=known.context("server.example")) as port:
        here = f"server.example:{port}"
        options = {"network": {"ca_file": str(ca_file)}, "resolver": to_loopback}
        async with offering([here, f"127.0.0.1:{port}"], {"hosts": [here]}, **options) as agent:
            done = await agent.run(USE.format(f"https://{here}/"), [here])
            assert done.exit_code == 0, done
            assert f"Bearer {VALUE}\r\n".encode() in server.heads[0], done.stderr
            assert VALUE.encode() not in done.model_dump_json().encode()


@pytest.mark.long
async def test_a_model_s_answer_can_name_it() -> None:
    host.check_has_what_it_types(USE)
    server = Upstream()
    async with listening(server.serve) as port:
        here = f"127.0.0.1:{port}"
        async with offering([here], {"hosts": [here]}) as agent:
            request = ParseExecuteRequest(
                agent_id="a",
                llm_response=f"Run this:\n\n```bash\n{USE.format(here)}\n```\n",
                auto_execute=True,
                auto_execute_threshold=0.0,
                vm_config={"secrets": {"KEY": {"value_from": "key", "hosts": [here]}}},
            )
            done = await agent.engine.answers.parse_and_execute(request)
            assert done.errors == []
            assert VALUE.encode() in server.heads[0]


KEY = {"value_from": "key", "hosts": ["a.example"]}


@pytest.mark.parametrize(
    ("secrets", "field", "why"),
    [
        ({"KEY": KEY | {"value_from": "env:NOT_OFFERED"}}, "secrets.KEY.value_from", "use one of"),
        ({"KEY": KEY | {"value_from": "file:/etc/shadow"}}, "secrets.KEY.value_from", "use one of"),
        ({"KEY": KEY | {"value_from": "MADE_UP_KEY"}}, "secrets.KEY.value_from", "use one of: key"),
        ({"KEY": KEY | {"value_from": "other"}}, "secrets.KEY.value_from", "use one of: key"),
        ({"KEY": KEY | {"hosts": ["b.example"]}}, "secrets.KEY.hosts", "is not for b.example"),
        ({"KEY": KEY | {"hosts": ["*"]}}, "secrets.KEY.hosts", "is not for"),
        ({"KEY": KEY | {"hosts": ["*.a.example"]}}, "secrets.KEY.hosts", "is not for"),
        ({"KEY": KEY | {"hosts": ["a.example:*"]}}, "secrets.KEY.hosts", "is not for"),
        ({"KEY": KEY | {"hosts": ["https://a.example"]}}, "secrets.KEY.hosts", "is a URL"),
        ({"KEY": KEY | {"hosts": []}}, "secrets.KEY.hosts", "1 to 64"),
        ({"KEY": KEY | {"hosts": ["c.example"]}}, "secrets.KEY.hosts", "may not reach c.example"),
        ({"KEY": KEY | {"hosts": ["a.example"] * 65}}, "secrets.KEY.hosts", "1 to 64"),
        ({"a-b": KEY}, "secrets", "name that is none"),
        ({f"K{n}": KEY for n in range(17)}, "secrets", "more than 16"),
    ],
)
async def test_what_is_refused(
    secrets: dict[str, Any], field: str, why: str, refusing: Agent
) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await refusing.plain("true", secrets=secrets)
    assert refused.value.field == field
    assert why in f"{refused.value} | {refused.value.remedy}"


@pytest.fixture(scope="module")
async def refusing() -> AsyncIterator[Agent]:
    offered = {"hosts": ["a.example", "c.example"], "agents": ["a"]}
    async with offering(["a.example"], offered) as agent:
        yield agent


async def test_agents_it_is_not_for_do_not_hear_of_it(refusing: Agent) -> None:
    with pytest.raises(ValidationFailed) as refused:
        await refusing.plain("true", agent_id="b", secrets={"KEY": KEY})
    assert refused.value.field == "secrets.KEY.value_from"
    assert "its operator declares them" in (refused.value.remedy or "")
    assert "use one of" not in (refused.value.remedy or "")


async def test_a_vm_without_a_network_has_no_use_for_it(refusing: Agent) -> None:
    vm = await refusing.engine.create_vm(VmCreateRequest(vm_type="closed", agent_id="a"))
    with pytest.raises(ValidationFailed, match="has no network") as refused:
        await refusing.plain("true", vm_id=vm.id, secrets={"KEY": KEY})
    assert refused.value.field == "secrets.KEY"


async def test_a_person_is_told_and_asked_once(refusing: Agent) -> None:
    code = "git clean -fdx; true"
    with pytest.raises(ApprovalRequired) as waits:
        await refusing.plain(code, secrets={"KEY": KEY})
    question = await refusing.engine.gates.question(waits.value.approval_id)
    assert "the secret key, for a.example" in question.prompt
    await refusing.engine.gates.answer(question.id, ApprovalAnswer(approve=True, who="t"))
    with pytest.raises(ApprovalRequired):  # it was asked about another request
        await refusing.plain(code, approval=None)
    done = await refusing.plain(code, secrets={"KEY": KEY}, approval=question.id)
    assert done.exit_code == 0


async def test_what_the_server_does_not_have_and_where_it_looked(
    monkeypatch: pytest.MonkeyPatch, refusing: Agent
) -> None:
    monkeypatch.delenv("MADE_UP_KEY")
    with pytest.raises(ConfigError) as refused:
        await refusing.plain("true", secrets={"KEY": KEY})
    assert refused.value.field == "offered_secrets.key.value_from"
    assert "MADE_UP_KEY" not in str(refused.value)


@pytest.mark.long
async def test_values_are_given_as_before() -> None:
    async with offering(["a.example"], {"hosts": ["a.example"]}) as agent:
        done = await agent.plain("echo ${#PLAIN} $PLAIN", secrets={"PLAIN": "plain-made-up"})
        assert done.stdout == "13 [redacted:secret PLAIN]\n"
