"""Alembic's environment: runs on the connection it is handed by `tokenworks.app.database.connections`."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
