"""Access tokens: what is kept of them, and who they let in."""

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mulligan.cli.console import UsageError
from mulligan.cli.token import span
from mulligan.client.tokens import read_token, token_in_force
from mulligan.errors import ConfigError, Unauthorized, VmNotAvailable
from mulligan.history.tokens import TokenStore, digest_of, open_tokens
from mulligan.server.access import Caller
from mulligan.server.authentication import FRESH_S, NOTED_S, Tokens

pytestmark = pytest.mark.anyio
START = datetime(2025, 1, 2, tzinfo=UTC)


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    with open_tokens(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(store: TokenStore, clock: Clock) -> Tokens:
    return Tokens(store, required=False, clock=clock, now=clock.now)


def test_a_token_is_nowhere_on_the_disk(store: TokenStore, tmp_path: Path) -> None:
    token, secret = store.create("a", name="of a test")
    assert secret.startswith("mlg_")
    assert len(secret) >= len("mlg_") + 320 * 10 // 60  # six bits a character
    assert secret.startswith(token.shown)
    assert (len(secret) - len(token.shown)) * 6 >= 256
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.digest.encode() in content
    assert secret.encode() not in content
    assert secret[len(token.shown) :].encode() not in content
    assert [oct(path.stat().st_mode & 0o777) for path in tmp_path.glob("*.db")] == ["0o600"]


def test_no_two_are_alike(store: TokenStore) -> None:
    made = [store.create(None)[1] for _ in range(100)]
    assert len(set(made)) == len({token.id for token in store.list()}) == 100


@pytest.mark.parametrize("name", ["", "x" * 101, "line\nbreak", "\x1b[2J"])
def test_a_note_is_a_line(store: TokenStore, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        store.create("a", name=name)
    assert store.list() == []


def test_good_ones_are_revoked_before_they_are_forgotten(store: TokenStore) -> None:
    token, _ = store.create("a")
    assert not store.forget(token.id)
    assert store.revoke(token.id)
    assert not store.revoke(token.id)
    assert [each.state(START) for each in store.list()] == ["revoked"]
    assert store.forget(token.id)
    assert store.list() == []


def test_a_database_of_before_tokens_gets_their_table(tmp_path: Path) -> None:
    with open_tokens(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "history.db") as database:
        database.execute("DROP TABLE mulligan_tokens")
        database.execute("DROP TABLE mulligan_idempotency_keys")  # younger still
        for column in ("network", "packages"):
            database.execute(f"ALTER TABLE mulligan_executions DROP COLUMN {column}")
        database.execute("UPDATE mulligan_version SET version_num = '0002'")
    database.close()
    with open_tokens(tmp_path) as store:
        assert store.create(None)[0] == store.list()[0]


async def test_where_there_is_no_token_anybody_may_come_in(tokens: Tokens) -> None:
    assert await tokens.caller(None) == Caller()
    assert (await tokens.caller("Bearer nonsense")).kind == "anyone"


async def test_unless_one_is_required(store: TokenStore, clock: Clock) -> None:
    with pytest.raises(Unauthorized, match="a token is needed"):
        await Tokens(store, required=True, clock=clock, now=clock.now).caller(None)


async def test_who_it_is(store: TokenStore, tokens: Tokens) -> None:
    agents, of_agent = store.create("a")
    admins, of_admin = store.create(None)
    found = await tokens.caller(f"Bearer {of_agent}")
    assert (found.agent_id, found.token_id, found.kind) == ("a", agents.id, "agent")
    found = await tokens.caller(f"bearer   {of_admin} ")
    assert (found.agent_id, found.token_id, found.kind) == (None, admins.id, "admin")


async def test_what_is_no_good_is_not_told_apart(store: TokenStore, clock: Clock) -> None:
    revoked, of_revoked = store.create("a")
    store.revoke(revoked.id)
    _, of_expired = store.create("a", expires_at=START)
    _, good = store.create("a")
    tokens = Tokens(store, required=False, clock=clock, now=clock.now)
    said = set()
    for header in (
        *(f"Bearer {each}" for each in (of_revoked, of_expired, "mlg_" + "A" * 54, good[:-1])),
        *(f"Bearer {each}" for each in (good + "A", good.lower(), digest_of(good), "", "\xff")),
        *(f"Basic {good}", good, "", f"Bearer{good}", "Bearer " + "A" * 10**6),
    ):
        with pytest.raises(Unauthorized) as caught:
            await tokens.caller(header)
        said.add((str(caught.value), caught.value.field, caught.value.remedy))
    assert len(said) == 1
    assert (await tokens.caller(f"Bearer {good}")).agent_id == "a"


async def test_what_others_do_is_seen_in_half_a_second(
    store: TokenStore, tokens: Tokens, clock: Clock
) -> None:
    assert (await tokens.caller(None)).kind == "anyone"
    token, secret = store.create("a")
    clock.seconds += FRESH_S
    assert (await tokens.caller(f"Bearer {secret}")).agent_id == "a"
    with pytest.raises(Unauthorized):
        await tokens.caller(None)
    store.revoke(token.id)
    clock.seconds += FRESH_S
    with pytest.raises(Unauthorized):
        await tokens.caller(f"Bearer {secret}")
    with pytest.raises(Unauthorized):  # a revoked one keeps the door shut
        await tokens.caller(None)
    store.forget(token.id)
    clock.seconds += FRESH_S
    assert (await tokens.caller(None)).kind == "anyone"


async def test_one_expires_to_the_moment(store: TokenStore, tokens: Tokens, clock: Clock) -> None:
    _, secret = store.create("a", expires_at=START + timedelta(seconds=0.2))
    assert await tokens.caller(f"Bearer {secret}")
    clock.seconds = 0.2
    with pytest.raises(Unauthorized):
        await tokens.caller(f"Bearer {secret}")


async def test_when_it_was_used_is_noted_now_and_then(
    store: TokenStore, tokens: Tokens, clock: Clock
) -> None:
    _, secret = store.create("a")

    async def used(at: float) -> datetime | None:
        clock.seconds = at
        await tokens.caller(f"Bearer {secret}")
        return store.list()[0].last_used_at

    assert await used(1) is None
    assert await used(2) == START + timedelta(seconds=1)
    assert await used(3) == START + timedelta(seconds=1)
    assert await used(2 + NOTED_S) == START + timedelta(seconds=3)
    await tokens.close()
    assert store.list()[0].last_used_at == START + timedelta(seconds=2 + NOTED_S)


async def test_many_at_once_read_them_once(
    store: TokenStore, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = store.create("a")
    reads = []
    read = store.list
    monkeypatch.setattr(store, "list", lambda: reads.append(1) or read())
    await asyncio.gather(*(tokens.caller(f"Bearer {secret}") for _ in range(50)))
    assert len(reads) == 1


def test_a_caller_narrows_what_is_asked_for() -> None:
    admin, agent = Caller(None, "t-1"), Caller("a", "t-2")
    assert [admin.agent(each) for each in (None, "a", "b")] == [None, "a", "b"]
    assert [agent.agent(each) for each in (None, "a")] == ["a", "a"]
    for other in ("b", "A", "a ", "", "nobody"):
        with pytest.raises(VmNotAvailable, match="there is no agent"):
            agent.agent(other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30d", 30 * 86400), ("12h", 43200), ("90m", 5400), ("1s", 1), ("2w", 14 * 86400)],
)
def test_spans(text: str, expected: int) -> None:
    assert span(text).total_seconds() == expected


@pytest.mark.parametrize(
    "text", ["", "0d", "-1d", "1", "d", "1y", "1.5h", "999999w", "1d2h", "\u0661d"]
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(UsageError, match="no time span"):
        span(text)


def test_a_clients_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token_in_force() is None
    path = tmp_path / "token"
    path.write_text("mlg_of-a-file\n")
    monkeypatch.setenv("MULLIGAN_TOKEN_FILE", str(path))
    assert token_in_force() == "mlg_of-a-file"
    monkeypatch.setenv("MULLIGAN_TOKEN", "mlg_of-the-environment")
    assert token_in_force() == "mlg_of-the-environment"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"a b", b"\xff\xfe", b"x" * 5000])
def test_what_is_no_token_is_not_sent(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no token"):
        read_token(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_token(tmp_path / "missing")
