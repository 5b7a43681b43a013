"""TBR-Lightning: the experiment platform around Think-Before-Refusal (arXiv 2503.17882)."""

__version__ = "0.1.0"
