"""A server for the tests that only talk to one."""

from collections.abc import Iterator

import httpx
import pytest

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
