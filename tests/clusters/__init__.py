"""Servers that are several: what is promised of them, and what happens when one goes."""
