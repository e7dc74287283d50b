"""The promise, without any store: nothing here knows which stores there are, or what they are kept in."""
