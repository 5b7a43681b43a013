"""Models: where they come from, how they are tuned, what is exported."""
