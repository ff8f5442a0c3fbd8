"""What ``mulligan run`` suggests on a terminal."""

import pytest

from mulligan.cli.hints import hints
from mulligan.models import VmExecuteResponse, utc_now


def response(stderr: str, exit_code: int = 1) -> VmExecuteResponse:
    return VmExecuteResponse(
        execution_id="exec-1",
        vm_id="vm-1",
        exit_code=exit_code,
        stdout="",
        stderr=stderr,
        duration_ms=1,
        started_at=utc_now(),
        completed_at=utc_now(),
    )


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("ModuleNotFoundError: No module named 'pandas'", "--require pandas"),
        ("ModuleNotFoundError: No module named 'yaml.nodes'", "--require yaml"),
        ("Error: Cannot find module 'left-pad'\nRequire stack:", "--require left-pad"),
        ("Error: Cannot find module '@scope/thing'", "--require @scope/thing"),
        ("curl: (6) Could not resolve host: example.org", "docs/network.md"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "docs/network.md"),
        ("npm error code EAI_AGAIN", "docs/network.md"),
    ],
)
def test_what_is_missing_is_named(stderr: str, expected: str) -> None:
    (hint,) = hints(response(stderr))
    assert expected in hint


@pytest.mark.parametrize(
    ("stderr", "exit_code"),
    [
        ("Error: Cannot find module './mine.js'", 1),
        ("ModuleNotFoundError: No module named 'x; rm -rf'", 1),
        ("ModuleNotFoundError: No module named 'pandas'", 0),
        ("", 1),
        ("ValueError: no", 1),
    ],
)
def test_nothing_is_said_of_anything_else(stderr: str, exit_code: int) -> None:
    assert hints(response(stderr, exit_code)) == []
