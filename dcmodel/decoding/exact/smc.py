"""Sequential Monte Carlo: many texts side by side, weighted by what the masks took away from each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dcmodel.checks import check_integer, check_number
from dcmodel.decoding.exact.places import Place
from dcmodel.decoding.exact.population import Weights, effective_size, log_mean, shares, systematic
from dcmodel.decoding.runs import together
from dcmodel.decoding.sampling import with_alternatives
from dcmodel.errors import DeadEndError
from dcmodel.session import Session
from dcmodel.types import Completion


async def sample_exactly(
    session: Session,
    particles: int,
    *,
    temperature: float = 1.0,
    seed: int | None = None,
    ess_threshold: float = 0.5,
) -> Completion:
    """Draw from the model's distribution *given that* the constraint is satisfied within `max_tokens`.

    `generate` renormalises each token's distribution over what the mask allows, and so prefers texts that
    begin likely and go on unlikely. Here each of `particles` texts is drawn like that, too, but carries as
    its weight the probability that the masks left to it (and that of the forced tokens). Where the weights
    have become uneven (an effective number below ``ess_threshold * particles``), the particles are resampled
    by them. (Lew et al. 2023, "Sequential Monte Carlo Steering of Large Language Models"; for masks that are
    not exact see `judging`.) A text that `max_tokens` cuts short of the constraint gets the weight 0.

    The law is one over sequences of tokens: those that the session accepts to their end, each with the
    product of its tokens' probabilities under ``softmax(logits / temperature)``, an end-of-sequence token
    included. Where the constraint forces text, the session accepts the usual tokens of that text only. The
    request's own `SamplingParams` play no part.

    Returns one text, drawn by the weights, with the others as its `alternatives`, heaviest first; equal
    tokens are merged. `weight` is a text's share of all. `log_z` is the log of an *unbiased* estimate of the
    probability that the unconstrained model would have satisfied the constraint. The draw itself is exact in
    the limit of many particles: with N of them its law is off by O(1/N), and `Certificate.detail` says so.
    (`sample_by_rejection` has no such error.) Particles with the same tokens share a session and its
    questions, so that many of them over few texts are cheap; else each takes up to 21 bytes of memory for
    each token that is allowed next.

    Raises `DeadEndError` where no particle satisfies the constraint. The session is unchanged.
    """
    check_integer("particles", particles, low=1)
    check_number("temperature", temperature, low=0.0, open_low=True)
    check_number("ess_threshold", ess_threshold, low=0.0, high=1.0)
    cloud = _Cloud([Place(session.fork(), temperature)], np.zeros(particles, np.int64), np.zeros(particles))
    rng = np.random.default_rng(seed)
    asked: set[Place] = set()
    while fresh := [place for place in cloud.occupied() if place not in asked]:
        await _ask(cloud, fresh)
        asked = set(cloud.places)
        cloud.resample(ess_threshold, rng)
        cloud.move(rng)
    return _result(cloud, rng)


@dataclass(slots=True)
class _Cloud:
    """Particles, by number: at which place, and how heavy. Finished ones stay where they are."""

    places: list[Place]
    at: NDArray[np.int64]
    log_weights: Weights

    def occupied(self) -> list[Place]:
        """Where particles with a weight above 0 are."""
        return [self.places[number] for number in np.unique(self.at[self.log_weights > -np.inf])]

    def groups(self) -> Iterator[tuple[Place, NDArray[np.int64]]]:
        """Each place with its particles, in order."""
        order = np.argsort(self.at, kind="stable")
        numbers, starts = np.unique(self.at[order], return_index=True)
        for number, group in zip(numbers, np.split(order, starts[1:]), strict=True):
            yield self.places[number], group

    def resample(self, threshold: float, rng: np.random.Generator) -> None:
        size = effective_size(self.log_weights)
        if 0.0 < size < threshold * len(self.at):
            chosen = systematic(self.log_weights, rng)
            self.at = self.at[chosen]
            self.log_weights = np.full(len(chosen), log_mean(self.log_weights))

    def move(self, rng: np.random.Generator) -> None:
        """Draw the next token of each unfinished particle."""
        places: list[Place] = []
        at = np.empty_like(self.at)
        for place, group in self.groups():
            if place.is_finished or self.log_weights[group].max() == -np.inf:
                at[group] = len(places)
                places.append(place)
                continue
            is_exact = place.next.is_exact
            drawn = place.next.draw(len(group), rng)
            if not len(drawn):  # all that the mask allowed is refused
                self.log_weights[group] = -np.inf
                at[group] = len(places)
                places.append(place)
                continue
            if not is_exact:
                self.log_weights[group] += math.log(place.next.mass(rng))
            tokens, which = np.unique(drawn, return_inverse=True)
            at[group] = len(places) + which
            places.extend(place.after(int(token)) for token in tokens)
            place.forget()
        self.places, self.at = places, at


async def _ask(cloud: _Cloud, fresh: list[Place]) -> None:
    """Ask the model at each new place, and weigh its particles by what is known then."""
    answers = dict(zip(fresh, await together(place.ask() for place in fresh), strict=True))
    for place, group in cloud.groups():
        if place not in answers:
            continue
        if isinstance(answers[place], DeadEndError) or (place.is_finished and not place.is_valid):
            cloud.log_weights[group] = -np.inf
            continue
        cloud.log_weights[group] += place.log_forced
        # Known before the draw, so that the particles can be resampled by it first.
        if not place.is_finished and place.next.is_exact:
            mass = place.next.known_mass
            cloud.log_weights[group] += math.log(mass) if mass > 0.0 else -np.inf


def _result(cloud: _Cloud, rng: np.random.Generator) -> Completion:
    log_z = log_mean(cloud.log_weights)
    if log_z == -np.inf:
        raise DeadEndError(
            f"none of {len(cloud.at)} particles satisfied the constraint.",
            remedy="Give more particles or a larger max_tokens.",
        )
    share = shares(cloud.log_weights)
    merged = [(place, float(share[group].sum())) for place, group in cloud.groups()]
    merged = sorted((item for item in merged if item[1] > 0.0), key=lambda item: -item[1])
    weights = np.array([weight for _, weight in merged])
    first = int(rng.choice(len(merged), p=weights / weights.sum()))
    merged.insert(0, merged.pop(first))
    detail = (
        f"sequential Monte Carlo with {len(cloud.at)} particles: the law given the constraint, "
        "exact as their number grows"
    )
    return with_alternatives([_completion(place, weight, log_z, detail) for place, weight in merged])


def _completion(place: Place, weight: float, log_z: float, detail: str) -> Completion:
    made = place.session.completion()
    detail = "; ".join(filter(None, (made.certificate.detail, detail)))
    certificate = replace(made.certificate, semantics="global", detail=detail)
    return replace(made, weight=weight, log_z=log_z, certificate=certificate)
