"""The server dies in the middle; nothing of it stays, and the next one serves."""

import threading

import httpx

from support import host
from support.server import Server

RUNNING = 20


def start_executions(url: str, count: int) -> list[threading.Thread]:
    """Starts executions of several agents that would run for minutes."""

    def one(number: int) -> None:
        hidden = "(setsid sleep 300 &)"
        try:
            httpx.post(
                f"{url}/api/llm/execute",
                json={
                    "agent_id": f"agent-{number % 5}",
                    "language": "bash",
                    "code": f"touch started-{number}; {hidden}; sleep 300",
                },
                timeout=60,
                trust_env=False,
            )
        except httpx.HTTPError:
            return  # the server is killed under it

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def sleepers(pid: int) -> list[int]:
    found = []
    for child in host.descendants(pid):
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                if file.read().startswith(b"sleep\x00300"):
                    found.append(child)
        except OSError:
            continue
    return found


def test_kill_9_leaves_nothing_and_the_next_server_serves() -> None:
    mounts = host.mounts()
    with host.data_directory() as path:
        with Server(path) as first:
            threads = start_executions(first.url, RUNNING)
            assert host.wait_until(lambda: len(sleepers(first.pid)) >= 2 * RUNNING, 60)
            everything = host.descendants(first.pid)
            first.kill()
            assert host.wait_until(lambda: not host.alive(everything), 2), host.alive(everything)
            for thread in threads:
                thread.join(10)
        assert host.mounts() == mounts
        with Server(path) as second:
            body = {"agent_id": "agent-0", "language": "bash", "code": "ls"}
            answer = httpx.post(
                f"{second.url}/api/llm/execute", json=body, timeout=60, trust_env=False
            ).json()
            assert answer["exit_code"] == 0
            assert "started-0" in answer["stdout"]
            vms = httpx.get(f"{second.url}/api/vms", trust_env=False).json()
            assert len(vms) == 5


def test_sigterm_ends_running_executions_and_all_vms() -> None:
    with host.data_directory() as path, Server(path) as server:
        threads = start_executions(server.url, 4)
        assert host.wait_until(lambda: len(sleepers(server.pid)) >= 8, 60)
        everything = host.descendants(server.pid)
        server.process.terminate()
        server.process.wait(30)
        assert host.wait_until(lambda: not host.alive(everything), 2)
        for thread in threads:
            thread.join(10)
        assert "Traceback" not in server.log()


def test_a_server_that_ignores_hang_ups_does_not_teach_programs_to() -> None:
    """Started under nohup, as many are: background programs are still told apart."""
    with host.data_directory() as path, Server(path, prefix=("nohup",)) as server:
        body = {"agent_id": "a", "language": "bash", "code": "sleep 300 & echo on"}
        answer = httpx.post(
            f"{server.url}/api/llm/execute", json=body, timeout=60, trust_env=False
        ).json()
        assert answer["background_processes"] == 0
