"""Alembic's entry: runs migrations on the connection that `infra.database.upgrade` hands over."""

from alembic import context
from sqlalchemy import text

from infra.tables import metadata

MIGRATION_LOCK = -1  # two processes that upgrade at the same time take turns

connection = context.config.attributes["connection"]
connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
context.configure(connection=connection, target_metadata=metadata)
context.run_migrations()
