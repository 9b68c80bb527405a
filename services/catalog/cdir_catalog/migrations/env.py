"""Alembic's entry: run migrations on the connection and in the transaction that the catalog hands over."""

from __future__ import annotations

from alembic import context

from cdir_catalog.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
