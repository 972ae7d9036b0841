"""The queue: queue_entries and workers."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None

REAL = sa.REAL().with_variant(sa.DOUBLE_PRECISION(), "postgresql")
IDENTIFIER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "queue_entries",
        sa.Column("generation_id", IDENTIFIER, nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("duration_seconds", REAL, nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker_id", sa.Text()),
        sa.Column("step", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("progress", REAL, server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.TIMESTAMP()),
        sa.Column("created_at", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("generation_id", name="pk_queue_entries"),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generations.id"],
            name="fk_queue_entries_generation_id",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 2", name=op.f("ck_queue_entries_priority")),
    )
    for name, columns, condition in (
        ("started", ["priority", "rank"], "worker_id IS NOT NULL"),
        ("waiting", ["place", "duration_seconds"], "worker_id IS NULL"),
    ):
        op.create_index(
            f"idx_queue_entries_{name}",
            "queue_entries",
            columns,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    op.create_index("idx_queue_entries_rank", "queue_entries", ["priority", "rank"])
    op.create_index("idx_queue_entries_client", "queue_entries", ["client", "priority", "rank"])
    op.create_table(
        "workers",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("slot", sa.Text(), nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("models", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", REAL, nullable=False),
        sa.Column("beat_at", REAL, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )


def downgrade() -> None:
    op.drop_table("queue_entries")
    op.drop_table("workers")
