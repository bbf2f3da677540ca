"""PostgreSQL: connecting, the schema, named statements, and the embedded server."""
