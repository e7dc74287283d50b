"""What every store promises, and the stores that it is asked of."""
