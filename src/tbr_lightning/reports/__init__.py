"""How results are shown: one style of figures, and one page without a server."""
