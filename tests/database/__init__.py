"""What only databases can be asked."""
