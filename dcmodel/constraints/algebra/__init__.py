"""Rules made of rules: `a & b`, `a | b`, `~a`, `a + b`, for any kinds.

rules           And, Or, Not, Then: what callers write
compiling       which compiled form a combination gets, and why
regular         all that is regular, as one terminal of the engine
joint           parts in order as one grammar of the engine
live            intersections by masks, with a witness that the text can be completed
search          looks for the witness
union, concat   unions and sequences by masks
walkers         the exact meaning of the operators, byte by byte
"""

from dcmodel.constraints.algebra.rules import And, Not, Or, Then

__all__ = ["And", "Not", "Or", "Then"]
