"""Examples, the sources they come from, and how they become token batches."""
