"""Backends that do not come with Django: one that nothing is written for, and two that are built upon known ones."""
