"""Clients of the API: owners of generations, api_keys, idempotency_keys and rate_counters."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None

REAL = sa.REAL().with_variant(sa.DOUBLE_PRECISION(), "postgresql")
IDENTIFIER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OWNED = sa.text("owner IS NOT NULL")


def upgrade() -> None:
    op.add_column("generations", sa.Column("owner", sa.Text()))
    op.create_index(
        "idx_generations_owner",
        "generations",
        ["owner", "created_at"],
        sqlite_where=OWNED,
        postgresql_where=OWNED,
    )
    op.create_table(
        "api_keys",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(), nullable=False),
        sa.Column("last_used_at", sa.TIMESTAMP()),
        sa.Column("revoked_at", sa.TIMESTAMP()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("idx_api_keys_key_sha256", "api_keys", ["key_sha256"], unique=True)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("job_ids", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_idempotency_keys"),
    )
    op.create_index("idx_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "rate_counters",
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("hits", sa.Integer(), nullable=False),
        sa.Column("expires_at", REAL, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_rate_counters"),
    )
    op.create_index("idx_rate_counters_expires_at", "rate_counters", ["expires_at"])


def downgrade() -> None:
    op.drop_table("rate_counters")
    op.drop_table("idempotency_keys")
    op.drop_table("api_keys")
    op.drop_index("idx_generations_owner", table_name="generations")
    op.drop_column("generations", "owner")
