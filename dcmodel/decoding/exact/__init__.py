"""Draws from the model's distribution given the constraint, not from the locally masked one.

smc         `sample_exactly`: weighted particles
adaptive    `sample_by_rejection`: one exact draw
places      what the model says at a text, shared by all particles there
judging     the next token where masks are wider than the constraint
population  weights
"""

from dcmodel.decoding.exact.adaptive import sample_by_rejection
from dcmodel.decoding.exact.smc import sample_exactly

__all__ = ["sample_by_rejection", "sample_exactly"]
