"""Idempotency keys from Python, in both modes, and through connections that break."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mulligan import HistoryConfig, VmExecutionClient, VmExecutionConfig
from mulligan import settings as settings_module
from mulligan.errors import ConnectionFailed, IdempotencyKeyReused, ValidationFailed
from mulligan.models import ParseExecuteRequest, VmExecuteRequest
from support.server import Server

pytestmark = pytest.mark.anyio
COUNT = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) | tee n"


def request(agent: str, code: str = COUNT) -> VmExecuteRequest:
    return VmExecuteRequest(agent_id=agent, language="bash", code=code)


@pytest.fixture(params=["http", "direct"])
async def client(
    request: pytest.FixtureRequest, data_dir: Path
) -> AsyncIterator[VmExecutionClient]:
    if request.param == "http":
        config = VmExecutionConfig(api_base_url=request.getfixturevalue("server").url)
        async with VmExecutionClient(config) as made:
            yield made
        return
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    settings = settings_module.load(data_dir=data_dir)
    async with VmExecutionClient(config, settings=settings) as made:
        yield made


async def test_every_method_that_takes_a_key_does_it_once(client: VmExecutionClient) -> None:
    agent = f"once-{uuid.uuid4()}"
    vm = await client.provision_vm(agent)
    answer = ParseExecuteRequest(
        agent_id=agent,
        llm_response=f"Run this:\n\n```bash\n{COUNT}\n```\n",
        auto_execute=True,
        auto_execute_threshold=0.0,
    )

    async def streamed(key: str) -> object:
        return [e async for e in client.stream(request(agent), idempotency_key=key)]

    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda key: client.execute_code(request(agent), idempotency_key=key),
        streamed,
        lambda key: client.execute_batch([request(agent)], idempotency_key=key),
        lambda key: client.parse_and_execute(answer, idempotency_key=key),
        lambda key: client.provision_vm(agent, idempotency_key=key),
        lambda key: client.create_snapshot(vm.id, idempotency_key=key),
        lambda key: client.fork(vm.id, idempotency_key=key),
        lambda key: client.rollback(vm.id, idempotency_key=key),
        lambda key: client.stop_vm(vm.id, idempotency_key=key),
        lambda key: client.delete_snapshot(vm.id, kept.id, idempotency_key=key),
        lambda key: client.delete_vm(spare.id, idempotency_key=key),
    ]
    kept, spare = await client.create_snapshot(vm.id), await client.provision_vm(agent)
    for call in calls:
        key = str(uuid.uuid4())
        first = await call(key)
        assert await call(key) == first
    vms = await client.list_vms(agent)
    assert len(vms) == 3  # the first, one provisioned and one forked


async def test_a_key_is_of_one_request(client: VmExecutionClient) -> None:
    key = f'" a \\ {uuid.uuid4()} "'
    first = await client.execute_code(request("reuse"), idempotency_key=key)
    assert (await client.execute_code(request("reuse"), idempotency_key=key)) == first
    with pytest.raises(IdempotencyKeyReused):
        await client.execute_code(request("reuse", "echo 2"), idempotency_key=key)


@pytest.mark.parametrize("bad", ["", "k" * 256, "\xe9", "a\nb"])
async def test_what_is_no_key(client: VmExecutionClient, bad: str) -> None:
    with pytest.raises(ValidationFailed, match="idempotency_key"):
        await client.execute_code(request("bad"), idempotency_key=bad)


class Breaking:
    """A way to a server that loses answers: it sends a request on and hangs up when one begins.

    Attributes:
        losses: so many answers to POSTs will be lost.
    """

    def __init__(self, url: str, *, hides_features: bool = False) -> None:
        self.losses = 0
        self._port = int(url.rsplit(":", 1)[1])
        self._hides = hides_features
        self.posts = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request: the connection ends with its answer."""
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            post = head.startswith(b"POST")
            self.posts += post
            lengths = re.findall(rb"content-length: (\d+)", head.lower())
            back.write(head.replace(b"keep-alive", b"close"))
            back.write(await reader.readexactly(sum(map(int, lengths))))
            while answer := await there.read(65536):
                if post and self.losses:
                    self.losses -= 1
                    return
                if self._hides:
                    answer = answer.replace(b"idempotency-keys", b"something-else00")
                writer.write(answer)
                await writer.drain()
        finally:
            for each in (writer, back):
                each.close()
                await each.wait_closed()


@pytest.mark.parametrize("kind", ["execute", "stream"])
async def test_a_lost_answer_is_asked_for_again(server: Server, kind: str) -> None:
    way = Breaking(server.url)
    agent = f"lost-{kind}"
    async with way.open() as url, VmExecutionClient(VmExecutionConfig(api_base_url=url)) as client:
        for expected in ("1\n", "2\n"):
            way.losses, key = 2, str(uuid.uuid4())
            if kind == "execute":
                done = await client.execute_code(request(agent), idempotency_key=key)
            else:
                events = [e async for e in client.stream(request(agent), idempotency_key=key)]
                done = events[-1].result
            assert done.stdout == expected
        assert way.losses == 0


@pytest.mark.parametrize("key", [None, "a-key"])
async def test_nothing_is_sent_twice_without_a_key_or_to_whom_knows_none(
    server: Server, key: str | None
) -> None:
    way = Breaking(server.url, hides_features=True)
    agent = f"old-{key}"
    async with way.open() as url, VmExecutionClient(VmExecutionConfig(api_base_url=url)) as client:
        way.losses = 1
        with pytest.raises(ConnectionFailed):
            await client.execute_code(request(agent), idempotency_key=key)
    assert way.posts == 1
