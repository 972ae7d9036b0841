"""Drop queue_entries.not_before and workers.started_at, which nothing reads."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None

REAL = sa.REAL().with_variant(sa.DOUBLE_PRECISION(), "postgresql")


def upgrade() -> None:
    op.drop_column("queue_entries", "not_before")
    op.drop_column("workers", "started_at")


def downgrade() -> None:
    op.add_column("queue_entries", sa.Column("not_before", sa.TIMESTAMP()))
    op.add_column(
        "workers", sa.Column("started_at", REAL, server_default=sa.text("0"), nullable=False)
    )
