"""Exact draws one at a time: rejection of whole texts, in a tree that remembers what was rejected."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dcmodel.checks import check_integer, check_number
from dcmodel.decoding.exact.places import Place
from dcmodel.errors import ConstraintViolationError, DeadEndError
from dcmodel.session import Session
from dcmodel.types import Completion


async def sample_by_rejection(
    session: Session, *, temperature: float = 1.0, seed: int | None = None, tries: int = 1_000
) -> Completion:
    """Draw from the same law as `sample_exactly`, without an error that depends on a number of particles.

    Plain rejection draws texts of the model until one satisfies the constraint. This draws them in a tree,
    in which each text so far carries an upper bound of the probability that what follows satisfies the
    constraint: 1 at first, then what the masks, forced tokens and refusals have shown. A token is drawn by
    its probability times its text's bound; a place whose bound turns out lower is passed with the ratio of
    the two, or else the try ends. The ratios cancel, so that a try ends in any valid text with the text's own
    probability over the bound of the beginning, whatever was found out before: the first one that
    ends in a valid text is an exact draw. A failed try lowers the bounds, so the same dead end is not
    tried twice as often as it deserves. (Rejection as in "grammar-aligned decoding", Park et al. 2024.)

    The number of tries needed is about the present bound over the probability of the constraint: good for
    constraints that the model satisfies now and then, hopeless for those that it hardly ever does; use
    `sample_exactly` there. Raises `DeadEndError` after `tries`, and at once where nothing can satisfy the
    constraint. Memory: up to 29 bytes for each token that is allowed at a place that was visited. The session
    is unchanged.
    """
    check_number("temperature", temperature, low=0.0, open_low=True)
    check_integer("tries", tries, low=1)
    rng = np.random.default_rng(seed)
    root = _Node(Place(session.fork(), temperature))
    for count in range(1, tries + 1):
        place = await _descend(root, rng)
        if place is not None:
            return _completion(place, count)
        if root.bound <= 0.0:
            raise DeadEndError("no text satisfies the constraint.", remedy="Give a larger max_tokens.")
    raise DeadEndError(
        f"none of {tries} tries satisfied the constraint; at most {root.bound:.3g} of the model's texts do.",
        remedy="Give more tries, or use sample_exactly.",
    )


class _Node:
    """A text in the tree."""

    def __init__(self, place: Place | None) -> None:
        self.place = place
        """None where the constraint refuses the text."""
        self.bound = 1.0
        """At most this share of the model's texts that begin so satisfy the constraint."""
        self.is_asked = False
        self.weights = np.zeros(0)
        """[S] probability times bound of each token that may follow."""
        self.children: dict[int, _Node] = {}
        """By index in the tokens that may follow."""

    async def ask(self) -> None:
        self.is_asked = True
        if self.place is None:
            return
        try:
            await self.place.ask()
        except DeadEndError:
            self.place = None
        else:
            self.weights = self.place.next.probs.copy()

    def child(self, index: int) -> _Node:
        if index not in self.children:
            assert self.place is not None
            try:
                after = self.place.after(index)
            except ConstraintViolationError:
                after = None
            self.children[index] = _Node(after)
        return self.children[index]

    def tighten(self) -> None:
        """Compute the bound from what is known."""
        if self.place is None:
            self.bound = 0.0
        elif self.place.is_finished:
            self.bound = math.exp(self.place.log_forced) if self.place.is_valid else 0.0
        else:
            self.bound = math.exp(self.place.log_forced) * float(self.weights.sum())


async def _descend(root: _Node, rng: np.random.Generator) -> Place | None:
    """One try: a valid text, or None."""
    path: list[tuple[_Node, int]] = []
    node = root
    while True:
        before = node.bound
        if not node.is_asked:
            await node.ask()
        node.tighten()
        if rng.random() * before >= node.bound or node.place is None:
            break
        if node.place.is_finished:
            return node.place
        cumulative = np.cumsum(node.weights)
        index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        index = min(index, int(np.flatnonzero(node.weights)[-1]))
        path.append((node, index))
        node = node.child(index)
    for parent, index in reversed(path):
        assert parent.place is not None
        parent.weights[index] = parent.place.next.probs[index] * parent.children[index].bound
        parent.tighten()
    return None


def _completion(place: Place, tries: int) -> Completion:
    made = place.session.completion()
    detail = f"rejection, {tries} tries: an exact draw from the law given the constraint"
    detail = "; ".join(filter(None, (made.certificate.detail, detail)))
    return replace(made, certificate=replace(made.certificate, semantics="global", detail=detail))
