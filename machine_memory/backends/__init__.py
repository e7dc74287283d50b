"""The stores that a memory can be kept in."""
