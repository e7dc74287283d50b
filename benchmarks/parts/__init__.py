"""The comparisons, one module each: ``measured(run)`` returns a section of the report."""
