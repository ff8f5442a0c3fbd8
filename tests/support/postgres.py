"""A PostgreSQL server of the tests' own, from the system's package."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from support.host import wait_until

USER = "tester"


def binaries() -> Path | None:
    """The directory of the newest PostgreSQL installed, or none."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    named = shutil.which("initdb")
    if not found and named:
        return Path(named).resolve().parent
    return max(found, key=lambda path: [int(n) for n in path.parent.name.split(".")], default=None)


def unprivileged() -> dict[str, object]:
    """Arguments for subprocesses: the server refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


class Postgres:
    """A running server; databases are made on it by name."""

    def __init__(self, sockets: Path, process: subprocess.Popen) -> None:
        self.sockets = sockets
        self.process = process

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.sockets}"

    def execute(self, statement: str) -> None:
        options = {"host": str(self.sockets), "user": USER, "dbname": "postgres"}
        with psycopg.connect(**options, autocommit=True) as connection:
            connection.execute(statement)

    def database(self, name: str, more: str = "") -> str:
        """Makes a database and returns its address."""
        self.execute(f'CREATE DATABASE "{name}" {more}')
        return self.url(name)

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError("the PostgreSQL server ended by itself")
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def server() -> Iterator[Postgres]:
    """A server on a unix socket; it and its files are gone afterwards."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    user = unprivileged()
    with tempfile.TemporaryDirectory(prefix="mulligan-pg-") as name:
        directory = Path(name)
        if user:
            os.chown(directory, user["user"], user["group"])
        data = directory / "data"
        initdb = [programs / "initdb", "-D", data, "-A", "trust", "-U", USER, "-E", "UTF8"]
        subprocess.run(
            [*initdb, "--no-sync", "--locale=C.UTF-8"],
            check=True, stdout=subprocess.DEVNULL, cwd=directory, **user,
        )  # fmt: skip
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=32MB"]
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", directory, *options],
                stdout=log, stderr=log, cwd=directory, start_new_session=True, **user,
            )  # fmt: skip
        try:
            running = Postgres(directory, process)
            assert wait_until(running.answers, 60), (directory / "log").read_text()
            yield running
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)
