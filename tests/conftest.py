"""Fixtures of all tests."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.models import VmExecuteRequest, VmExecuteResponse
from mulligan.settings import Settings
from support import host

for _name in [name for name in os.environ if name.startswith("MULLIGAN_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with host.data_directory() as path:
        yield path


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return settings_module.load(data_dir=data_dir)


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Engine]:
    """An engine of the test's own; afterwards nothing of it may be left."""
    before = host.descendants(os.getpid())
    async with Engine(settings) as opened:
        yield opened
    left = host.descendants(os.getpid()) - before
    assert not left, f"processes left: {left}"


@pytest.fixture(scope="session")
async def shared_engine() -> AsyncIterator[Engine]:
    """One engine, without gates, for the many tests that only run programs."""
    with host.data_directory() as path:
        hooks = {"enabled": False}
        chosen = settings_module.load(data_dir=path, max_code_length=10**6, hooks=hooks)
        async with Engine(chosen) as opened:
            yield opened


class Runner:
    """Runs programs on an engine with few words."""

    def __init__(self, engine: Engine, agent: str) -> None:
        self.engine = engine
        self.agent = agent

    async def __call__(self, code: str, language: str = "python", **more) -> VmExecuteResponse:
        request = VmExecuteRequest(agent_id=self.agent, language=language, code=code, **more)
        return await self.engine.execute(request)


@pytest.fixture
def run(engine: Engine) -> Runner:
    return Runner(engine, "tester")


@pytest.fixture
def shared_run(shared_engine: Engine, request: pytest.FixtureRequest) -> Runner:
    return Runner(shared_engine, "tester")


# Files whose tests start servers and VMs by the dozen: minutes of two cores each. They are run by
# `make test-long`; `make test` has to end within a quarter of an hour.
SLOW_FILES = {
    "test_churn.py",
    "test_cli_terminal.py",
    "test_concurrency.py",
    "test_examples.py",
    "test_lying_vm.py",
    "test_mcp_asking.py",
    "test_mcp_docs.py",
    "test_mcp_http.py",
    "test_mcp_stdio.py",
    "test_mcp_tools.py",
    "test_network.py",
    "test_openapi_fuzz.py",
    "test_package_gate.py",
    "test_packages.py",
    "test_pool.py",
    "test_queue.py",
    "test_reaper.py",
    "test_selfcheck.py",
    "test_shell.py",
    "test_soak.py",
    "test_terminal.py",
    "test_terminal_socket.py",
    "test_terminal_texts.py",
}


# Files of few tests that take long begin first: else one process waits for the other at the end.
FIRST_FILES = {
    "test_access.py",
    "test_bad_past.py",
    "test_cli.py",
    "test_crash.py",
    "test_docs.py",
    "test_idempotency.py",
    "test_interruptions.py",
    "test_kill_rounds.py",
    "test_lifecycle.py",
    "test_many_clients.py",
    "test_mixed_load.py",
    "test_state_machine.py",
    "test_undo_over_http.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST_FILES)
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.long)
