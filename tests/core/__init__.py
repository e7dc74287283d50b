"""What a memory promises whatever its store, and what has to go wrong for it to show."""
