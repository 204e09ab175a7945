"""what kind of examples a file holds"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # null in older rows: their kind shows when a job's files are validated
    op.add_column("files", sa.Column("kind", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("files", "kind")
