"""Orchestrators that people use already, each with its state in a memory: one file each, to be copied."""
