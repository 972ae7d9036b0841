"""Add workers.outage: why a worker takes no jobs for now."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "005"
down_revision = "004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("outage", sa.Text()))


def downgrade() -> None:
    op.drop_column("workers", "outage")
