"""The admin, in a client and in a browser."""
