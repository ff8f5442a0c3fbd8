"""Sessions, and VMs as objects, from Python: through a server and in this process."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mulligan import (
    AsyncVm,
    HistoryConfig,
    Vm,
    VmExecutionClient,
    VmExecutionConfig,
)
from mulligan import settings as settings_module
from mulligan.errors import (
    ApprovalRequired,
    ConfigError,
    IdempotencyKeyReused,
    SessionExists,
    SessionNotFound,
    SnapshotNotFound,
    ValidationFailed,
)
from mulligan.hooks.approver import Answer
from mulligan.hooks.interface import Hook
from mulligan.hooks.manager import HookManager
from mulligan.models import Approval
from mulligan.models.hooks import Allow, Block, ExecutionOutput, ModifyOutput
from support import host

pytestmark = pytest.mark.anyio
COUNT = "n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) | tee n"
Make = Callable[..., VmExecutionClient]


@pytest.fixture(scope="module", params=["http", "direct"])
def make(request: pytest.FixtureRequest, shared_dir: Path) -> Make:
    """Makes clients: of a server, or with an engine."""
    if request.param == "http":
        config = VmExecutionConfig(api_base_url=request.getfixturevalue("server").url)
        return lambda **more: VmExecutionClient(config, **more)
    config = VmExecutionConfig(history=HistoryConfig(integration_mode="direct"))
    settings = settings_module.load(data_dir=shared_dir)
    return lambda **more: VmExecutionClient(config, settings=settings, **more)


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    with host.data_directory() as path:
        yield path


@pytest.fixture
async def client(make: Make) -> AsyncIterator[VmExecutionClient]:
    async with make() as made:
        yield made


def fresh() -> str:
    return f"s-{uuid.uuid4().hex[:12]}"


async def test_a_session_from_its_making_to_its_end(client: VmExecutionClient) -> None:
    name, agent = f"{fresh()}/../x.y:z@w+v", fresh()
    made = await client.create_session(name, agent_id=agent)
    assert (made.name, made.agent_id) == (name, agent)
    with pytest.raises(SessionExists):
        await client.create_session(name, agent_id=agent)
    assert (await client.get_or_create_session(name, agent_id=agent)).vm_id == made.vm_id

    await client.execute_in_session(name, "cd /tmp; x=5; echo kept > file")
    kept = await client.snapshot_session(name, "good")
    done = await client.execute_in_session(name, "x=6; rm file; echo out; echo err >&2; exit 3")
    assert (done.exit_code, done.outcome) == (3, "failed")
    assert sorted(done.output.split()) == ["err", "out"]
    back = await client.rollback_session(name, kept.snapshot_id)
    assert back.restored_snapshot_id == kept.snapshot_id
    done = await client.execute_in_session(name, "echo $x $PWD; cat file", agent_id=agent)
    assert done.output == "5 /tmp\nkept\n"
    assert (await client.get_session_info(name)).commands == 3
    assert [each.name for each in await client.list_sessions(agent)] == [name]
    with pytest.raises(SnapshotNotFound):
        await client.rollback_session(name, "snap-none")

    await client.close_session(name, agent)
    assert await client.list_sessions(agent) == []
    for what in (
        client.close_session(name),
        client.get_session_info(name),
        client.execute_in_session(name, "true"),
        client.snapshot_session(name),
        client.rollback_session(name, "snap-1"),
    ):
        with pytest.raises(SessionNotFound):
            await what


async def test_what_no_session_is_called(client: VmExecutionClient) -> None:
    for name in ("", ".", "..", "a b", "a?b", "a#b", "\xe9", "a\n", "x" * 201):
        with pytest.raises(SessionNotFound):
            await client.get_session_info(name)
        with pytest.raises(ValidationFailed, match="name"):
            await client.create_session(name, agent_id="me")


async def test_with_a_key_it_is_done_once(client: VmExecutionClient) -> None:
    name, key = fresh(), str(uuid.uuid4())
    made = await client.create_session(name, idempotency_key=key)
    assert await client.create_session(name, idempotency_key=key) == made
    key = str(uuid.uuid4())
    first = await client.execute_in_session(name, COUNT, idempotency_key=key)
    assert first.output == "1\n"
    assert await client.execute_in_session(name, COUNT, idempotency_key=key) == first
    with pytest.raises(IdempotencyKeyReused):
        await client.execute_in_session(name, "true", idempotency_key=key)
    key = str(uuid.uuid4())
    kept = await client.snapshot_session(name, idempotency_key=key)
    assert await client.snapshot_session(name, idempotency_key=key) == kept
    key = str(uuid.uuid4())
    await client.rollback_session(name, kept.snapshot_id, idempotency_key=key)
    assert (await client.execute_in_session(name, COUNT)).output == "2\n"
    await client.rollback_session(name, kept.snapshot_id, idempotency_key=key)
    assert (await client.execute_in_session(name, COUNT)).output == "3\n"


class Judge(Hook):
    """Refuses one word, and takes another out of what comes back."""

    name = "judge"

    def pre_tool(self, context):
        assert (context.kernel, context.language) == ("session", "bash")
        return Block(reason="no") if "forbidden" in context.code else Allow()

    def post_tool(self, context):
        said = ExecutionOutput(stdout=context.stdout.replace("word", "****"), stderr="")
        return ModifyOutput(output=said)


async def test_hooks_and_the_approver_of_a_client_are_asked(make: Make) -> None:
    asked: list[str] = []

    def approver(question: Approval) -> Answer:
        asked.append(question.code)
        return Answer(approve=True, who="tester")

    name = fresh()
    async with make(approver=approver) as client:
        await client.create_session(name)
        hooks = HookManager()
        hooks.add_hook(Judge())
        client.with_hook_manager(hooks)
        assert (await client.execute_in_session(name, "echo a word")).output == "a ****\n"
        with pytest.raises(ValidationFailed, match="judge: no"):
            await client.execute_in_session(name, "echo forbidden")
        await client.execute_in_session(name, "git clean -fdx; true")
        assert asked == ["git clean -fdx; true"]
    async with make() as client:
        with pytest.raises(ApprovalRequired):
            await client.execute_in_session(name, "git clean -fdx; true")


# VMs as objects


@contextmanager
def blocking(make: Make, **more: object) -> Iterator[Vm]:
    """A VM on the same server or data directory."""
    sample = make()
    config = sample.config
    if config.history.integration_mode == "http":
        place: dict[str, object] = {"server": config.api_base_url}
    else:
        place = {"settings": sample._backend._settings}
    with Vm(**(place | more)) as vm:
        yield vm


def test_a_vm_that_is_a_session(make: Make) -> None:
    name = fresh()
    with blocking(make, agent_id="tester", session=name) as vm:
        vm.command("cd /tmp; x=1")
        key = str(uuid.uuid4())
        for _ in range(2):
            vm.command("x=$((x + 1))", idempotency_key=key)
        last = vm.command("echo $x $PWD")
        assert (last.output, last.vm_id) == ("2 /tmp\n", vm.id)
        broke = vm.command("x=ruined")
        vm.rollback(broke)
        assert vm.command("echo $x").output == "2\n"
        [fork] = vm.fork()
        with pytest.raises(ConfigError, match="session"):
            fork.command("true")
        fork.delete()
    with blocking(make, agent_id="tester", session=name) as vm:
        assert vm.id == last.vm_id
        vm.delete()
    with blocking(make, agent_id=fresh()) as vm, pytest.raises(ConfigError) as refused:
        vm.command("true")
    assert refused.value.field == "session"


async def test_one_cannot_ask_for_a_vm_and_a_session() -> None:
    with pytest.raises(ConfigError) as refused:
        AsyncVm(vm_id="vm-1", session="s")
    assert refused.value.field == "session"


def test_a_vm_does_once_what_comes_with_a_key(make: Make) -> None:
    with blocking(make, agent_id=fresh()) as vm:

        def streamed(key: str) -> object:
            return list(vm.stream(COUNT, "bash", idempotency_key=key))

        for does in (
            lambda key: vm.run(COUNT, "bash", idempotency_key=key),
            streamed,
            lambda key: vm.snapshot("s", idempotency_key=key),
            lambda key: vm.rollback(idempotency_key=key),
            lambda key: [fork.id for fork in vm.fork(idempotency_key=key)],
        ):
            key = str(uuid.uuid4())
            assert does(key) == does(key)
        # Two counted, one of them was taken back, and nothing else happened.
        assert vm.run("cat n", "bash").stdout == "1\n"


async def test_a_terminal_in_a_vm(make: Make) -> None:
    async with make() as client:
        vm_id = (await client.provision_vm(fresh())).id
        async with client.terminal(vm_id, command="cat") as known:
            assert known.vm_id == vm_id
    with blocking(make, vm_id=vm_id) as vm:
        with vm.terminal(cols=90, rows=20, command="stty size; read x; echo got $x") as terminal:
            assert terminal.vm_id == vm.id
            terminal.send(b"it\n")
            printed = b"".join(terminal.output())
        assert b"20 90" in printed
        assert b"got it" in printed
        assert terminal.exit is not None
        assert terminal.exit.exit_code == 0
        with pytest.raises(ValidationFailed, match="cols"), vm.terminal(cols=0):
            pass
        with pytest.raises(TypeError):
            vm.terminal(columns=1)
