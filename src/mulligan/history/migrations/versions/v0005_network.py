"""What executions reached over the network."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the column."""
    column = sa.Column("network", sa.Text, nullable=False, server_default="[]")
    op.add_column("mulligan_executions", column)
