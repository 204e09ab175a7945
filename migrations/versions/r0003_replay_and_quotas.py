"""replay of requests, and quotas"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

QUOTAS = ("max_jobs", "max_stored_bytes", "max_requests_per_minute")


def upgrade() -> None:
    for name in QUOTAS:
        op.add_column("projects", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_table(
        "job_requests",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_requests_job_id_jobs")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_job_requests_key_id_api_keys")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_requests")),
    )
    op.create_index(op.f("ix_job_requests_key_id_body_sha256"), "job_requests", ["key_id", "body_sha256"])
    op.create_table(
        "kept_answers",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("held_until", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_kept_answers_key_id_api_keys")),
        sa.PrimaryKeyConstraint("key_id", "idempotency_key", name=op.f("pk_kept_answers")),
    )
    op.create_index(op.f("ix_kept_answers_created_at"), "kept_answers", ["created_at"])


def downgrade() -> None:
    op.drop_table("kept_answers")
    op.drop_table("job_requests")
    for name in reversed(QUOTAS):
        op.drop_column("projects", name)
