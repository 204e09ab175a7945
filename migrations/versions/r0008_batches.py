"""batches; what any request has made, where jobs alone were noted"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from core.migrate import create_batch_triggers

JSON_ = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
STAMPS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("user_metadata", JSON_, nullable=True),
        sa.Column("output_lifetime_s", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        *(sa.Column(f"{name}_at", sa.Double(), nullable=True) for name in STAMPS),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("loss_line", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("errors", JSON_, nullable=True),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_file_id", sa.Text(), nullable=True),
        sa.Column("error_file_id", sa.Text(), nullable=True),
        sa.Column("swept_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_batches_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index(op.f("ix_batches_project_id_created_at_id"), "batches", ["project_id", "created_at", "id"])
    op.create_index(op.f("ix_batches_status_not_before"), "batches", ["status", "not_before"])
    op.create_table(
        "batch_parts",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("first_line", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("output_key", sa.Text(), nullable=True),
        sa.Column("error_key", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_parts_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "first_line", name=op.f("pk_batch_parts")),
    )
    create_batch_triggers(op.get_bind())
    op.create_table(
        "creations",
        sa.Column("object_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("made_by", sa.Integer(), nullable=False),
        sa.Column("answered", sa.Integer(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_creations_project_id")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_creations_key_id")),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_creations")),
    )
    op.execute(
        "INSERT INTO creations (object_id, project_id, key_id, request_sha256, made_by, answered, idempotency_key, "
        "created_at) SELECT r.job_id, j.project_id, r.key_id, r.body_sha256, r.made_by, r.answered, "
        "r.idempotency_key, r.created_at FROM job_requests r JOIN jobs j ON j.id = r.job_id"
    )
    op.drop_table("job_requests")
    op.create_index(op.f("ix_creations_key_id_request_sha256"), "creations", ["key_id", "request_sha256"])
    op.create_index(op.f("ix_creations_project_id"), "creations", ["project_id"])


def downgrade() -> None:
    op.drop_table("creations")
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
    op.drop_table("batch_parts")
    op.drop_table("batches")  # with its trigger
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION batches_terminal_is_final()")
