"""Add attachments: the stems and the MIDI file of a take."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "006"
down_revision = "005"
branch_labels = None
depends_on = None

COUNT = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
IDENTIFIER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "attachments",
        sa.Column("generation_id", IDENTIFIER, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("file_path", sa.Text(), nullable=False),
        sa.Column("bytes", COUNT, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("generation_id", "kind", "name", name="pk_attachments"),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generations.id"],
            name="fk_attachments_generation_id",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("kind IN ('stem', 'midi')", name=op.f("ck_attachments_kind")),
    )


def downgrade() -> None:
    op.drop_table("attachments")
