"""token lengths of files, throughput of workers, and what a worker's hour costs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "token_counts",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=8), nullable=False),
        sa.Column("lengths", JSON_, nullable=True),
        sa.Column("error", JSON_, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_token_counts_file_id_files")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_token_counts_project_id_projects")),
        sa.PrimaryKeyConstraint("file_id", "base_model", "method", name=op.f("pk_token_counts")),
    )
    op.create_index(op.f("ix_token_counts_project_id"), "token_counts", ["project_id"])
    op.create_index(op.f("ix_token_counts_status"), "token_counts", ["status"])
    op.create_table(
        "throughputs",
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("quantization", sa.String(length=16), nullable=False),
        sa.Column("training", sa.String(length=16), nullable=False),
        sa.Column("tokens_per_s", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("device_name", "base_model", "quantization", "training", name=op.f("pk_throughputs")),
    )
    op.add_column("workers", sa.Column("price_per_hour", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "price_per_hour")
    op.drop_table("throughputs")
    op.drop_table("token_counts")
