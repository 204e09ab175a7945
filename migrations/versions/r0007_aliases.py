"""aliases of models"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_model_aliases_project_id")),
        sa.PrimaryKeyConstraint("project_id", "name", name=op.f("pk_model_aliases")),
    )
    op.create_index(op.f("ix_model_aliases_target"), "model_aliases", ["target"])


def downgrade() -> None:
    op.drop_table("model_aliases")
