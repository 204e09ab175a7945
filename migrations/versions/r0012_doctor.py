"""the dataset doctor's conversions, reports, repairs and splits"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "doctor_tasks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("request", JSON_, nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("share", sa.Double(), nullable=False),
        sa.Column("result", JSON_, nullable=True),
        sa.Column("error", JSON_, nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_doctor_tasks_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_doctor_tasks")),
    )
    op.create_index(
        op.f("ix_doctor_tasks_project_id_kind_created_at_id"),
        "doctor_tasks",
        ["project_id", "kind", "created_at", "id"],
    )
    op.create_index(op.f("ix_doctor_tasks_status_created_at"), "doctor_tasks", ["status", "created_at"])


def downgrade() -> None:
    op.drop_table("doctor_tasks")
