"""What is asked alike of every store; what only one store can be asked is in its own folder."""
