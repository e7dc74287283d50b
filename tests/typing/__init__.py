"""What type checkers say of the states that callers declare."""
