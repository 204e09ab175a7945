"""row-level security, and who gave a permission

A permission names its owner's project, so that the policies of models and of permissions need not ask one another.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from core.access import row_security

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_OWNERS = """
UPDATE checkpoint_permissions SET owner_project_id =
    (SELECT models.project_id FROM models WHERE models.id = checkpoint_permissions.model_id)
"""


def upgrade() -> None:
    op.add_column("checkpoint_permissions", sa.Column("owner_project_id", sa.Text(), nullable=True))
    op.execute(_OWNERS)
    with op.batch_alter_table("checkpoint_permissions") as table:
        table.alter_column("owner_project_id", existing_type=sa.Text(), nullable=False)
        table.create_foreign_key(
            op.f("fk_checkpoint_permissions_owner_project_id"), "projects", ["owner_project_id"], ["id"]
        )
        table.create_index(op.f("ix_checkpoint_permissions_owner_project_id"), ["owner_project_id"])
    row_security.enforce(op.get_bind())


def downgrade() -> None:
    row_security.release(op.get_bind())
    with op.batch_alter_table("checkpoint_permissions") as table:
        table.drop_index(op.f("ix_checkpoint_permissions_owner_project_id"))
        table.drop_constraint(op.f("fk_checkpoint_permissions_owner_project_id"), type_="foreignkey")
        table.drop_column("owner_project_id")
