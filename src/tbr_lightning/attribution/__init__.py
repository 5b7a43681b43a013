"""Which words drive a refusal: integrated gradients, a figure, the swap test (optional)."""
