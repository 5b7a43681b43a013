"""Safety reflections as data: who wrote them, what they conclude, whether they passed."""
