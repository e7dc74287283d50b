"""What is published: that the wheel and the sdist hold what they should, and nothing else."""
