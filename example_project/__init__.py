"""A small whole project that shows machine memory in use."""
