"""Approvals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes the table of approvals."""
    name = "mulligan_approvals"
    op.create_table(
        name,
        sa.Column("seq", _KEY, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("vm_id", sa.Text, nullable=False),
        sa.Column("vm_state", sa.Text, nullable=False),
        sa.Column("language", sa.Text, nullable=False),
        sa.Column("kernel", sa.Text),
        sa.Column("working_dir", sa.Text),
        sa.Column("env_names", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("answered_by", sa.Text),
        sa.Column("comment", sa.Text),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("execution_id", sa.Text),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("stdin", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index(f"{name}_id", name, ["id"], unique=True)
    op.create_index(f"{name}_agent", name, ["agent_id", "seq"])
    live = sa.text("state IN ('pending', 'approved')")
    op.create_index(
        f"{name}_live", name, ["digest"], unique=True, sqlite_where=live, postgresql_where=live
    )
