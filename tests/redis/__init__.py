"""What only Redis can be asked."""
