"""What a person sees of a result: one style of figures, and one page without a server."""
