"""Idempotency keys."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the table of idempotency keys."""
    name = "mulligan_idempotency_keys"
    op.create_table(
        name,
        sa.Column("seq", _KEY, primary_key=True, autoincrement=True),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("execution_id", sa.Text),
        sa.Column("status", sa.Integer),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sqlite_autoincrement=True,
    )
    op.create_index(f"{name}_key", name, ["agent_id", "key"], unique=True)
    op.create_index(f"{name}_agent", name, ["agent_id", "seq"])
    op.create_index(f"{name}_created", name, ["created_at"])
