"""Token-level control of any language model: constrained generation and exact scores."""

__version__ = "0.1.0"
