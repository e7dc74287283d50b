"""A backend that speaks PostgreSQL's protocol, and is another database."""
