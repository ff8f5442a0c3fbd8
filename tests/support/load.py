"""Clients that use a server's time machine as hard as they can, and remember what it promised."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx

LOOK = "find . -type f -print0 | sort -z | xargs -0r sha256sum"
MOST_SNAPSHOTS = 12


class Killed(Exception):  # noqa: N818  (no error: it is what the clients wait for)
    """The server does not answer any more."""


@dataclass
class Promises:
    """What one agent was told is kept, of its one VM."""

    vm: str = ""
    executions: list[str] = field(default_factory=list)
    snapshots: dict[str, str] = field(default_factory=dict)  # id → what LOOK says in it
    unchecked: set[str] = field(default_factory=set)
    snapshots_made: int = 0


class Client:
    """One agent's client.

    Args:
        agent: whose.
        promises: filled as the server answers.
    """

    def __init__(self, agent: str, promises: Promises) -> None:
        self.agent = agent
        self.promises = promises
        self._http = httpx.Client(timeout=60, trust_env=False, verify=False)
        self._url = ""

    def close(self) -> None:
        self._http.close()

    def serve(self, url: str) -> None:
        """Goes on with another server."""
        self._url = url

    def call(self, method: str, path: str, **more: object) -> httpx.Response:
        try:
            return self._http.request(method, self._url + path, **more)
        except httpx.TransportError as error:
            raise Killed from error

    def execute(self, code: str) -> str:
        """Runs Bash and returns what it printed; its row is promised from then on."""
        body = {"agent_id": self.agent, "language": "bash", "code": code}
        answer = self.call("POST", "/api/llm/execute", json=body)
        assert answer.status_code == 200, answer.text
        done = answer.json()
        assert done["exit_code"] == 0, done
        self.promises.vm = done["vm_id"]
        self.promises.executions.append(done["execution_id"])
        return done["stdout"]

    def work(self, rng: random.Random) -> None:
        """One thing to do, chosen at random."""
        promises, vm = self.promises, f"/api/vms/{self.promises.vm}"
        choice = rng.random() if promises.snapshots else 0.0
        if choice < 0.7:
            number, size = rng.randrange(20), rng.randrange(200_000)
            change = f"head -c {size} /dev/urandom > f{number}; mkdir -p d{number % 3}"
            remove = f"rm -rf f{number - 1} d{(number + 1) % 3}; date +%N > d{number % 3}/when"
            seen = self.execute(f"{change}; {remove}; {LOOK}")
            made = self.call("POST", f"/api/vms/{promises.vm}/snapshots", json={})
            assert made.status_code == 201, made.text
            promises.snapshots[made.json()["id"]] = seen
            promises.unchecked.add(made.json()["id"])
            promises.snapshots_made += 1
        elif choice < 0.85:
            snapshot = rng.choice(list(promises.snapshots))
            body = {"snapshot_id": snapshot, "create_pre_rollback_snapshot": rng.random() < 0.5}
            assert self.call("POST", f"{vm}/rollback", json=body).status_code == 200
        elif choice < 0.95:
            made = self.call("POST", f"{vm}/fork", json={"count": 2})
            assert made.status_code in (200, 201), made.text
            for fork in made.json()["vms"]:
                self.call("DELETE", f"/api/vms/{fork['id']}")
        else:
            snapshot = rng.choice(list(promises.snapshots))
            del promises.snapshots[snapshot]  # gone or not, if the answer does not come
            promises.unchecked.discard(snapshot)
            self.call("DELETE", f"{vm}/snapshots/{snapshot}")

    def check(self, rng: random.Random) -> None:
        """Every promise was kept: the rows are there, and snapshots bring the very bytes back."""
        if not self.promises.vm:
            return
        vm = f"/api/vms/{self.promises.vm}"
        rows = self.rows()
        promised = set(self.promises.executions)
        known = [row["id"] for row in reversed(rows)]
        assert [each for each in known if each in promised] == self.promises.executions, len(rows)
        assert not [row["id"] for row in rows if row["outcome"] == "running"]
        listed = {each["id"] for each in self.call("GET", f"{vm}/snapshots").json()}
        assert self.promises.snapshots.keys() <= listed
        old = sorted(self.promises.snapshots.keys() - self.promises.unchecked)
        for snapshot in [*sorted(self.promises.unchecked), *rng.sample(old, min(1, len(old)))]:
            self.restore(snapshot)
        self.promises.unchecked.clear()
        for snapshot in list(self.promises.snapshots)[:-MOST_SNAPSHOTS]:
            del self.promises.snapshots[snapshot]
            assert self.call("DELETE", f"{vm}/snapshots/{snapshot}").status_code == 204

    def rows(self) -> list[dict[str, Any]]:
        """All the history has of its VM, newest first; a page has 1,000 at most."""
        rows: list[dict[str, Any]] = []
        while True:
            params = {"limit": 1000, "offset": len(rows)}
            page = self.call("GET", f"/api/vms/{self.promises.vm}/history", params=params).json()
            rows += page["entries"]
            if len(rows) >= page["total"] or not page["entries"]:
                return rows

    def restore(self, snapshot: str) -> None:
        vm = f"/api/vms/{self.promises.vm}"
        back = self.call("POST", f"{vm}/rollback/{snapshot}")
        assert back.status_code == 200, back.text
        assert self.execute(LOOK) == self.promises.snapshots[snapshot]


class Load:
    """Several clients at once, each in a thread; what fails in one is raised by ``join``."""

    def __init__(self, clients: list[Client], seed: int) -> None:
        self.steps = 0
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(client, random.Random(f"{seed}.{number}")))
            for number, client in enumerate(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, client: Client, rng: random.Random) -> None:
        try:
            while True:
                client.work(rng)
                self.steps += 1
        except Killed:
            return
        except BaseException as error:  # noqa: BLE001  (the other thread's to raise)
            self._failures.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for failure in self._failures:
            raise failure
