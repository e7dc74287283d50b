"""The demo: many workers, some of them killed in mid-lease, and a count of what was lost."""
