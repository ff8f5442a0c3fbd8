"""The packages an execution had."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Adds the column of packages to executions, none for those there are."""
    op.add_column(
        "mulligan_executions",
        sa.Column("packages", sa.Text, nullable=False, server_default="[]"),
    )
