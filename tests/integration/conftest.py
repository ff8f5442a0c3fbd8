"""A server for the tests that only talk to one, and the drivers of those that start engines."""

from collections.abc import Iterator

import httpx
import pytest

from mulligan.drivers.gvisor import runsc
from mulligan.errors import ConfigError
from support.host import data_directory
from support.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with data_directory() as path, Server(path) as running:
        yield running


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(params=["bubblewrap", pytest.param("gvisor", marks=pytest.mark.long)])
def each_driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A driver that has networks and images, for all VMs of a test: it is the same with each."""
    if request.param == "gvisor":
        try:
            runsc.find()
        except ConfigError as missing:
            pytest.skip(f"{missing.detail}: {missing.remedy}")
    monkeypatch.setenv("MULLIGAN_DRIVER", request.param)
    return request.param
