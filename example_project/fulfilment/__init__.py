"""Orders on their way to the customer: one machine each, driven by events that come twice, late and out of order."""
