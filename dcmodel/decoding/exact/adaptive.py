"""Exact draws one at a time: rejection of whole texts, in a tree that remembers what was rejected."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dcmodel.checks import check_integer, check_number
from dcmodel.decoding.exact.places import Place
from dcmodel.decoding.sampling import with_alternatives
from dcmodel.errors import ConstraintViolationError, DeadEndError
from dcmodel.session import Session
from dcmodel.types import Completion


async def sample_by_rejection(
    session: Session,
    n: int = 1,
    *,
    temperature: float = 1.0,
    seed: int | None = None,
    tries: int = 1_000,
) -> Completion:
    """`n` independent draws from the law of `sample_exactly`, without an error that depends on particles.

    Plain rejection draws texts of the model until one satisfies the constraint. This draws them in a tree, in
    which each text so far carries an upper bound of the probability that what follows satisfies the
    constraint: 1 at first, then what masks, forced tokens and refusals have shown. A token is drawn by its
    probability times the bound behind it; a place whose bound turns out lower is passed with the ratio of
    the two, or else the try ends. The ratios cancel: a try ends in any valid text with the text's own
    probability over the bound at the beginning, whatever was found out before. So the first valid text is an
    exact draw, and the next one another, from a tree that knows more. (Rejection in a tree that learns, as in
    "Grammar-Aligned Decoding", Park et al. 2024.)

    A draw needs about the present bound over the probability of the constraint in tries: few where what the
    masks show comes early or the tree has learned it; hopeless where most texts fail late, each in its own
    way. Then use `sample_exactly`. Raises `DeadEndError` where a draw took more than `tries`, and at once
    where nothing can satisfy the constraint. Memory: up to 29 bytes for each token that is allowed at
    a place that was visited.

    Returns the first draw, with the others as its `alternatives`, in their order, equal ones included.
    `weight` is ``1 / n``. `log_z` is the log of the number of draws over the sum, over all tries, of one over
    the bound at the beginning: it converges as `n` grows or the tree becomes known, and says little after a
    single draw from a new tree. The session is unchanged.
    """
    check_integer("n", n, low=1)
    check_number("temperature", temperature, low=0.0, open_low=True)
    check_integer("tries", tries, low=1)
    rng = np.random.default_rng(seed)
    root = _Node(Place(session.fork(), temperature))
    drawn: list[Place] = []
    sum_inverse, num_tries = 0.0, 0
    for _ in range(n):
        for _ in range(tries):
            num_tries += 1
            sum_inverse += 1.0 / root.bound
            place = await _descend(root, rng)
            if place is not None:
                drawn.append(place)
                break
            if root.bound <= 0.0:
                raise DeadEndError("no text satisfies the constraint.", remedy="Give a larger max_tokens.")
        else:
            raise DeadEndError(
                f"none of {tries} tries satisfied the constraint; at most {root.bound:.3g} of the texts that "
                "the model would write do.",
                remedy="Give more tries, or use sample_exactly.",
            )
    detail = f"rejection, {num_tries} tries for {n} draws: exact draws from the law given the constraint"
    log_z = math.log(n / sum_inverse)
    made = {place: _completion(place, 1 / n, log_z, detail) for place in dict.fromkeys(drawn)}
    return with_alternatives([made[place] for place in drawn])


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
    """One try: a valid text, or None. What it finds out reaches the bounds on its way when it has ended."""
    path: list[tuple[_Node, int]] = []
    node = root
    while True:
        before = node.bound
        if not node.is_asked:
            await node.ask()
            node.tighten()
        is_passed = rng.random() * before < node.bound
        if node.place is None or node.place.is_finished or not is_passed:
            break
        cumulative = np.cumsum(node.weights)
        index = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
        index = min(index, int(np.flatnonzero(node.weights)[-1]))
        path.append((node, index))
        node = node.child(index)
    for parent, index in reversed(path):
        assert parent.place is not None
        parent.weights[index] = parent.place.next.probs[index] * parent.children[index].bound
        parent.tighten()
    return node.place if is_passed else None


def _completion(place: Place, weight: float, log_z: float, detail: str) -> Completion:
    made = place.session.completion()
    detail = "; ".join(filter(None, (made.certificate.detail, detail)))
    certificate = replace(made.certificate, semantics="global", detail=detail)
    return replace(made, weight=weight, log_z=log_z, certificate=certificate)
