"""VMs, executions, blocks, snapshots, doomed outputs and the full-text index."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the first tables."""
    _vms()
    _executions()
    _blocks()
    _snapshots()
    op.create_table("mulligan_doomed_outputs", sa.Column("execution_id", sa.Text, primary_key=True))
    _words()


def _vms() -> None:
    op.create_table(
        "mulligan_vms",
        sa.Column("number", _KEY, primary_key=True, autoincrement=True),
        sa.Column("vm_id", sa.Text, nullable=False),
        sa.Column("taken", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("mulligan_vms_id", "mulligan_vms", ["vm_id"], unique=True)


def _executions() -> None:
    op.create_table(
        "mulligan_executions",
        sa.Column("seq", _KEY, primary_key=True, autoincrement=False),
        sa.Column("block_id", sa.BigInteger, nullable=False),
        sa.Column("executed_at", sa.BigInteger, nullable=False),
        sa.Column("success", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("kernel", sa.Text),
        sa.Column("vm_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text),
        sa.Column("snapshot_before", sa.Text),
        sa.Column("snapshot_after", sa.Text),
        sa.Column("exit_code", sa.Integer, nullable=False),
        sa.Column("duration_ms", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("cpu_ms", sa.BigInteger, nullable=False),
        sa.Column("max_rss_kb", sa.BigInteger, nullable=False),
        sa.Column("stdout_bytes", sa.BigInteger, nullable=False),
        sa.Column("stderr_bytes", sa.BigInteger, nullable=False),
        sa.Column("change_bytes", sa.BigInteger),
        sa.Column("truncated", sa.Boolean, nullable=False),
        sa.Column("stdout_in_file", sa.Boolean, nullable=False),
        sa.Column("stderr_in_file", sa.Boolean, nullable=False),
        sa.Column("stdin_sha256", sa.Text),
        sa.Column("approval", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("verdicts", sa.Text, nullable=False),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("proposed_command", sa.Text),
        sa.Column("stdout", sa.Text, nullable=False),
        sa.Column("stderr", sa.Text, nullable=False),
    )
    name = "mulligan_executions"
    op.create_index(f"{name}_id", name, ["id"], unique=True)
    op.create_index(f"{name}_block", name, ["block_id", "seq", "executed_at"])
    for reference in ("snapshot_id", "snapshot_before", "snapshot_after"):
        given = sa.text(f"{reference} IS NOT NULL")
        op.create_index(
            f"{name}_{reference}", name, [reference], sqlite_where=given, postgresql_where=given
        )


def _blocks() -> None:
    op.create_table(
        "mulligan_blocks",
        sa.Column("id", _KEY, primary_key=True, autoincrement=True),
        sa.Column("vm", sa.BigInteger, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("kernel", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("taken", sa.Integer, nullable=False),
        sa.Column("min_seq", sa.BigInteger, nullable=False),
        sa.Column("max_seq", sa.BigInteger, nullable=False),
        sa.Column("min_time", sa.BigInteger, nullable=False),
        sa.Column("max_time", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("mulligan_blocks_vm", "mulligan_blocks", ["vm"])


def _snapshots() -> None:
    op.create_table(
        "mulligan_snapshots",
        sa.Column("seq", _KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("vm_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("layer", sa.Text),
        sa.Column("name", sa.Text),
        sa.Column("description", sa.Text),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("execution_id", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("kernels", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("mulligan_snapshots_id", "mulligan_snapshots", ["id"], unique=True)
    op.create_index("mulligan_snapshots_vm", "mulligan_snapshots", ["vm_id", "seq"])
    op.create_index("mulligan_snapshots_execution", "mulligan_snapshots", ["execution_id"])


def _words() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE mulligan_words USING fts5"
            "(words, tokenize=\"ascii tokenchars '_:'\", detail=none, columnsize=0)"
        )
    else:
        op.execute(
            "CREATE TABLE mulligan_words (rowid BIGINT PRIMARY KEY, words TSVECTOR NOT NULL)"
        )
        op.execute("CREATE INDEX mulligan_words_words ON mulligan_words USING gin (words)")
