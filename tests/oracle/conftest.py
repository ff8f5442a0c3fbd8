"""The tables are for every driver this host has."""

from collections.abc import AsyncIterator

import pytest

from mulligan import settings as settings_module
from mulligan.engine.engine import Engine
from mulligan.errors import ConfigError
from support import host


@pytest.fixture(
    scope="session",
    params=[
        "bubblewrap",
        pytest.param("gvisor", marks=pytest.mark.long),
        pytest.param("qemu", marks=pytest.mark.long),
    ],
)
async def shared_engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """One engine, without gates, for the many tests that only run programs."""
    with host.data_directory() as path:
        hooks = {"enabled": False}
        chosen = settings_module.load(
            data_dir=path, driver=request.param, max_code_length=10**6, hooks=hooks
        )
        engine = Engine(chosen)
        try:
            await engine.open()
        except ConfigError as error:
            pytest.skip(f"{error.detail}: {error.remedy}")
        try:
            yield engine
        finally:
            await engine.close()
