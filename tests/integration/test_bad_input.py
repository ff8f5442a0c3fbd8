"""Every bad request ends in one JSON answer that names what was wrong; the VM goes on."""

import json

import httpx
import pytest

GOOD = {"agent_id": "careful", "language": "python", "code": "print('still here')"}

REFUSED = {
    # name: (changes, status, variant, field)
    "unknown language": ({"language": "cobol"}, 400, "UnsupportedLanguage", "language"),
    "empty code": ({"code": ""}, 400, "ValidationFailed", "code"),
    "blank code": ({"code": " \n\t"}, 400, "ValidationFailed", "code"),
    "code over the limit": ({"code": "#" * 10001}, 400, "ValidationFailed", "code"),
    "NUL in code": ({"code": "print(1)\0"}, 400, "ValidationFailed", "code"),
    "half a surrogate pair": ({"code": "x = '\ud800'"}, 400, "ValidationFailed", "code"),
    "nobody's VM": ({"vm_id": "vm-0000"}, 404, "VmNotAvailable", "vm_id"),
    "a path for a VM": ({"vm_id": "../../etc"}, 404, "VmNotAvailable", "vm_id"),
    "negative timeout": ({"timeout_seconds": -1}, 422, "ValidationFailed", "timeout_seconds"),
    "no timeout at all": ({"timeout_seconds": 0}, 400, "ValidationFailed", "timeout_seconds"),
    "endless timeout": ({"timeout_seconds": 10**9}, 400, "ValidationFailed", "timeout_seconds"),
    "timeout as text": ({"timeout_seconds": "5"}, 422, "ValidationFailed", "timeout_seconds"),
    "relative directory": ({"working_dir": "x"}, 400, "ValidationFailed", "working_dir"),
    "missing directory": ({"working_dir": "/no/such"}, 400, "ValidationFailed", "working_dir"),
    "a file as directory": ({"working_dir": "/etc/passwd"}, 400, "ValidationFailed", "working_dir"),
    "NUL in directory": ({"working_dir": "/a\0b"}, 400, "ValidationFailed", "working_dir"),
    "language as number": ({"language": 5}, 422, "ValidationFailed", "language"),
    "code as list": ({"code": ["print(1)"]}, 422, "ValidationFailed", "code"),
    "empty agent": ({"agent_id": ""}, 400, "ValidationFailed", "agent_id"),
    "agent with a line break": ({"agent_id": "a\nb"}, 400, "ValidationFailed", "agent_id"),
    "unknown field": ({"langauge": "python"}, 422, "ValidationFailed", "langauge"),
    "requirements": ({"requirements": ["-r other.txt"]}, 400, "ValidationFailed", "requirements"),
    "odd environment": ({"env": {"A=B": "x"}}, 400, "ValidationFailed", "env"),
    "missing code": ({"code": ...}, 422, "ValidationFailed", "code"),
    "missing agent": ({"agent_id": ...}, 422, "ValidationFailed", "agent_id"),
}


def check_error(response: httpx.Response, status: int, variant: str, field: str | None) -> None:
    body = response.json()
    assert response.status_code == status, body
    assert list(body["error"]) == [variant]
    assert body["field"] == field
    assert "\n" not in body["message"]
    assert "Traceback" not in response.text


def check_alive(http: httpx.Client) -> None:
    assert http.post("/api/llm/execute", json=GOOD).json()["stdout"] == "still here\n"


@pytest.mark.parametrize("name", REFUSED)
def test_refused(http: httpx.Client, name: str) -> None:
    changes, status, variant, field = REFUSED[name]
    request = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    content = json.dumps(request)
    response = http.post(
        "/api/llm/execute", content=content, headers={"Content-Type": "application/json"}
    )
    check_error(response, status, variant, field)
    check_alive(http)


def test_another_agents_vm_is_nobodys(http: httpx.Client) -> None:
    vm = http.post("/api/vms", json={"agent_id": "owner"}).json()
    response = http.post("/api/llm/execute", json=GOOD | {"vm_id": vm["id"]})
    check_error(response, 404, "VmNotAvailable", "vm_id")
    check_alive(http)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"agent_id": "a", ', 400),
        (b"", 422),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b'{"code": "\xff\xfe"}', 400),
        (b"\xff" * 100, 400),
        (b"[" * 100_000, 400),
    ],
)
def test_bodies_that_are_no_request(http: httpx.Client, content: bytes, status: int) -> None:
    response = http.post(
        "/api/llm/execute", content=content, headers={"Content-Type": "application/json"}
    )
    check_error(response, status, "ValidationFailed", "body")
    check_alive(http)


def test_a_body_of_50_mb(http: httpx.Client) -> None:
    response = http.post("/api/llm/execute", json=GOOD | {"code": "x" * 50_000_000})
    check_error(response, 413, "ValidationFailed", "body")
    check_alive(http)


def test_a_body_of_50_mb_that_does_not_say_so(http: httpx.Client) -> None:
    pieces = (b" " * 1_000_000 for _ in range(50))
    response = http.post(
        "/api/llm/execute", content=pieces, headers={"Content-Type": "application/json"}
    )
    check_error(response, 413, "ValidationFailed", "body")
    check_alive(http)


@pytest.mark.parametrize("vm_type", ["", "no-such", "../x"])
def test_unknown_vm_types(http: httpx.Client, vm_type: str) -> None:
    response = http.post("/api/vms", json={"agent_id": "a", "vm_type": vm_type})
    check_error(response, 400, "ValidationFailed", "vm_type")


def test_a_vm_of_nobody(http: httpx.Client) -> None:
    check_error(http.post("/api/vms", json={}), 400, "ValidationFailed", "agent_id")


def test_routes_that_are_none(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    assert http.put("/api/vms").status_code == 405
    assert "error" in http.get("/nothing").json()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8080"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_web_pages_are_refused(http: httpx.Client, headers: dict[str, str]) -> None:
    response = http.post("/api/vms", json={"agent_id": "a"}, headers=headers)
    check_error(response, 403, "ApiError", *headers)
    check_alive(http)


def test_this_machines_own_names_are_not(http: httpx.Client) -> None:
    for headers in ({"Host": "localhost:1"}, {"Host": "[::1]:2"}, {"Origin": "http://localhost:3"}):
        assert http.get("/health", headers=headers).status_code == 200


@pytest.mark.parametrize("field", ["language", "vm_id", "agent_id", "working_dir"])
def test_half_a_surrogate_pair_anywhere(http: httpx.Client, field: str) -> None:
    content = json.dumps(GOOD | {field: "\ud800"})
    response = http.post(
        "/api/llm/execute", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 404)
    check_alive(http)
