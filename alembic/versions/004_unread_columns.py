"""Drop queue_entries.not_before, which nothing read: the queue library keeps the delay itself."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("queue_entries", "not_before")


def downgrade() -> None:
    op.add_column("queue_entries", sa.Column("not_before", sa.TIMESTAMP()))
