"""The tables. Changes need a step in ``migrations/versions``; a test compares the two.

Names carry a prefix because a PostgreSQL database may be shared with other programs.
``docs/history-format.md`` explains each table. PostgreSQL's are made by the steps alone: an option
for it here would have every command load all its drivers.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    column,
    table,
    text,
)

from mulligan.history.columns import AnyText, Time, Unsigned

VERSION_TABLE = "mulligan_version"
HEAD = "0006"  # the newest step in migrations/versions

metadata = MetaData()
_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up INTEGER alone

# The VMs that have rows, and how many numbers each has used: see sequence.py.
vms = Table(
    "mulligan_vms",
    metadata,
    Column("number", _KEY, primary_key=True, autoincrement=True),
    Column("vm_id", AnyText, nullable=False),
    Column("taken", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a number is never used twice, whatever was deleted
)
Index("mulligan_vms_id", vms.c.vm_id, unique=True)

# The narrow columns come first: SQLite then reads them without the outputs' pages.
executions = Table(
    "mulligan_executions",
    metadata,
    Column("seq", _KEY, primary_key=True, autoincrement=False),
    Column("block_id", BigInteger, nullable=False),
    Column("executed_at", Time, nullable=False),
    Column("success", Boolean, nullable=False),
    Column("outcome", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    Column("kernel", AnyText),
    Column("vm_id", AnyText, nullable=False),
    Column("agent_id", AnyText, nullable=False),
    Column("id", AnyText, nullable=False),
    Column("snapshot_id", AnyText),
    Column("snapshot_before", AnyText),
    Column("snapshot_after", AnyText),
    Column("exit_code", Integer, nullable=False),
    Column("duration_ms", Unsigned, nullable=False),
    Column("completed_at", Time),
    Column("cpu_ms", Unsigned, nullable=False),
    Column("max_rss_kb", Unsigned, nullable=False),
    Column("stdout_bytes", Unsigned, nullable=False),
    Column("stderr_bytes", Unsigned, nullable=False),
    Column("change_bytes", Unsigned),
    Column("truncated", Boolean, nullable=False),
    Column("stdout_in_file", Boolean, nullable=False),
    Column("stderr_in_file", Boolean, nullable=False),
    Column("stdin_sha256", AnyText),
    Column("approval", AnyText),
    Column("error", AnyText),
    Column("verdicts", Text, nullable=False),
    Column("command", AnyText, nullable=False),
    Column("proposed_command", AnyText),
    Column("stdout", AnyText, nullable=False),
    Column("stderr", AnyText, nullable=False),
    Column("network", Text, nullable=False, server_default="[]"),
    Column("packages", Text, nullable=False, server_default="[]"),
)
Index("mulligan_executions_id", executions.c.id, unique=True)
Index(
    "mulligan_executions_block",
    executions.c.block_id,
    executions.c.seq,
    executions.c.executed_at,
)
SNAPSHOT_COLUMNS = (
    executions.c.snapshot_id,
    executions.c.snapshot_before,
    executions.c.snapshot_after,
)
for _reference in SNAPSHOT_COLUMNS:
    _given = _reference.is_not(None)
    Index(
        f"mulligan_executions_{_reference.name}",
        _reference,
        sqlite_where=_given,
    )

# Runs of rows that agree in what is filtered by, counted: see blocks.py.
blocks = Table(
    "mulligan_blocks",
    metadata,
    Column("id", _KEY, primary_key=True, autoincrement=True),
    Column("vm", BigInteger, nullable=False),
    Column("agent_id", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    Column("kernel", AnyText),
    Column("status", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("taken", Integer, nullable=False),
    Column("min_seq", BigInteger, nullable=False),
    Column("max_seq", BigInteger, nullable=False),
    Column("min_time", BigInteger, nullable=False),
    Column("max_time", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
Index("mulligan_blocks_vm", blocks.c.vm)

snapshots = Table(
    "mulligan_snapshots",
    metadata,
    Column("seq", _KEY, primary_key=True, autoincrement=True),
    Column("id", AnyText, nullable=False),
    Column("vm_id", AnyText, nullable=False),
    Column("agent_id", AnyText, nullable=False),
    Column("layer", AnyText),
    Column("name", AnyText),
    Column("description", AnyText),
    Column("kind", AnyText, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("execution_id", AnyText),
    Column("size_bytes", Unsigned),
    Column("kernels", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("mulligan_snapshots_id", snapshots.c.id, unique=True)
Index("mulligan_snapshots_vm", snapshots.c.vm_id, snapshots.c.seq)
Index("mulligan_snapshots_execution", snapshots.c.execution_id)

# Executions whose rows are gone and whose output files may not be yet.
doomed_outputs = Table(
    "mulligan_doomed_outputs", metadata, Column("execution_id", AnyText, primary_key=True)
)

approvals = Table(
    "mulligan_approvals",
    metadata,
    Column("seq", _KEY, primary_key=True, autoincrement=True),
    Column("id", AnyText, nullable=False),
    Column("state", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("agent_id", AnyText, nullable=False),
    Column("vm_id", AnyText, nullable=False),
    Column("vm_state", AnyText, nullable=False),
    Column("language", AnyText, nullable=False),
    Column("kernel", AnyText),
    Column("working_dir", AnyText),
    Column("env_names", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False),
    Column("answered_at", Time),
    Column("answered_by", AnyText),
    Column("comment", AnyText),
    Column("used_at", Time),
    Column("execution_id", AnyText),
    Column("prompt", AnyText, nullable=False),
    Column("code", AnyText, nullable=False),
    Column("stdin", AnyText),
    sqlite_autoincrement=True,
)
Index("mulligan_approvals_id", approvals.c.id, unique=True)
Index("mulligan_approvals_agent", approvals.c.agent_id, approvals.c.seq)
# One question at a time about the same thing, whoever asks it.
LIVE = text("state IN ('pending', 'approved')")
Index(
    "mulligan_approvals_live",
    approvals.c.digest,
    unique=True,
    sqlite_where=LIVE,
)

# Of a token its digest alone is kept; see tokens.py. No agent: an administrator's.
tokens = Table(
    "mulligan_tokens",
    metadata,
    Column("seq", _KEY, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("shown", Text, nullable=False),
    Column("agent_id", AnyText),
    Column("name", AnyText),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time),
    Column("revoked_at", Time),
    Column("last_used_at", Time),
    sqlite_autoincrement=True,
)
Index("mulligan_tokens_id", tokens.c.id, unique=True)
Index("mulligan_tokens_digest", tokens.c.digest, unique=True)

# Requests that came with an idempotency key: see keys.py. The body comes last, as above.
keys = Table(
    "mulligan_idempotency_keys",
    metadata,
    Column("seq", _KEY, primary_key=True, autoincrement=True),
    Column("agent_id", AnyText, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("execution_id", Text),
    Column("status", Integer),
    Column("bytes", BigInteger, nullable=False),
    Column("body", LargeBinary),
    sqlite_autoincrement=True,
)
Index("mulligan_idempotency_keys_key", keys.c.agent_id, keys.c.key, unique=True)
Index("mulligan_idempotency_keys_agent", keys.c.agent_id, keys.c.seq)
Index("mulligan_idempotency_keys_created", keys.c.created_at)

# The full-text index: rowid is the execution's seq. A virtual table on SQLite, hence no Table.
words = table("mulligan_words", column("rowid", BigInteger), column("words"))
_WORDS = {
    "sqlite": (
        "CREATE VIRTUAL TABLE mulligan_words USING fts5"
        "(words, tokenize=\"ascii tokenchars '_:'\", detail=none, columnsize=0)",
    ),
    "postgresql": (
        "CREATE TABLE mulligan_words (rowid BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)",
        "CREATE INDEX mulligan_words_words ON mulligan_words USING gin (words)",
    ),
}


def create(connection: Connection) -> None:
    """Makes all tables at once, for a database that lives in memory alone."""
    metadata.create_all(connection)
    for statement in _WORDS[connection.dialect.name]:
        connection.exec_driver_sql(statement)
