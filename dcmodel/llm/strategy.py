"""How many texts `generate` makes of a prompt, and how it searches for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dcmodel.checks import check_integer, check_number
from dcmodel.errors import InvalidRequestError
from dcmodel.types import SamplingParams

SamplingSemantics = Literal["local", "exact"]
"""``local``: each token from the masked, renormalised distribution. ``exact``: the whole text from the
model's distribution under the constraint."""
DEFAULT_PARTICLES = 32
DEFAULT_DIVERSITY = 0.5
"""Of Vijayakumar et al. 2016, "Diverse Beam Search", where it did well on all tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """The options of `DecodingOptions`, checked against one another. The default makes one text."""

    n: int = 1
    best_of: int | None = None
    beams: int | None = None
    beam_groups: int = 1
    diversity: float | None = None
    """None: `DEFAULT_DIVERSITY`, where there are groups."""
    length_penalty: float = 0.0
    sampling: SamplingSemantics = "local"
    particles: int | None = None
    """None: exact sampling by rejection; `DEFAULT_PARTICLES` where that fails."""

    def __post_init__(self) -> None:
        check_integer("n", self.n, low=1)
        check_integer("beam_groups", self.beam_groups, low=1)
        check_number("length_penalty", self.length_penalty, low=0.0)
        for name in ("best_of", "beams", "particles"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), low=1)
        if self.diversity is not None:
            check_number("diversity", self.diversity, low=0.0)
        if self.sampling not in get_args(SamplingSemantics):
            raise InvalidRequestError(
                f"sampling is {self.sampling!r:.40}; it must be local or exact.",
                remedy="The options of each draw go by their own names: temperature=, top_p= …",
            )
        self._check_one_way()
        self._check_counts()
        self._check_companions()

    @property
    def needs_session(self) -> bool:
        """Whether it works on sessions; else on plain requests, which any backend serves."""
        return self.beams is not None or self.sampling == "exact"

    @property
    def num_particles(self) -> int:
        return DEFAULT_PARTICLES if self.particles is None else self.particles

    @property
    def group_diversity(self) -> float:
        return DEFAULT_DIVERSITY if self.diversity is None else self.diversity

    def check_sampling(self, sampling: SamplingParams) -> None:
        """Raise `InvalidRequestError` for parameters of the draw that this strategy has no use for."""
        if self.beams is not None:
            self._check_neutral(sampling, "beams", self.beams, and_temperature=True)
        elif self.sampling == "exact":
            self._check_neutral(sampling, "sampling", "exact", and_temperature=False)
            if sampling.temperature == 0.0:
                raise InvalidRequestError(
                    'temperature is 0 with sampling="exact": there is no distribution to draw from.',
                    remedy="Give a temperature above 0 (1, the default here, is the model's own), or beams=.",
                )
        elif sampling.temperature == 0.0 and max(self.n, self.best_of or 1) > 1:
            name = "best_of" if (self.best_of or 1) > 1 else "n"
            raise InvalidRequestError(
                f"{name} is {getattr(self, name)} and temperature is 0: all texts would be the same.",
                remedy="Give a temperature above 0, or beams= for the likeliest texts.",
            )

    def _check_one_way(self) -> None:
        """At most one of best-of, beams and exact sampling."""
        ways = [
            *([f"best_of={self.best_of}"] if self.best_of is not None else []),
            *([f"beams={self.beams}"] if self.beams is not None else []),
            *(['sampling="exact"'] if self.sampling == "exact" else []),
        ]
        if len(ways) > 1:
            raise InvalidRequestError(
                f"{ways[0]} and {ways[1]} are different searches.", remedy="Give one of them."
            )

    def _check_counts(self) -> None:
        for name in ("best_of", "beams"):
            limit = getattr(self, name)
            if limit is not None and self.n > limit:
                raise InvalidRequestError(
                    f"n is {self.n} and {name} is {limit}: there are not so many texts to keep.",
                    remedy=f"Give {name}={self.n} or more, or a smaller n.",
                )
        if self.n > 1 and self.particles is not None:
            raise InvalidRequestError(
                f"n is {self.n} and particles is {self.particles}: all of them are given, weighted.",
                remedy="Read the alternatives and leave n out, or leave particles out for independent draws.",
            )
        if self.beams is not None and self.beams % self.beam_groups:
            raise InvalidRequestError(
                f"{self.beams} beams cannot be put into beam_groups={self.beam_groups} of equal size.",
                remedy="Give a divisor of beams.",
            )

    def _check_companions(self) -> None:
        """Options that mean nothing without another."""
        if self.beams is None:
            for name, default in (("beam_groups", 1), ("length_penalty", 0.0)):
                if getattr(self, name) != default:
                    raise InvalidRequestError(
                        f"{name} is {getattr(self, name)} and there are no beams.",
                        remedy=f"Give beams= too, or leave {name} out.",
                    )
        if self.diversity is not None and self.beam_groups == 1:
            raise InvalidRequestError(
                f"diversity is {self.diversity} and there is one group of beams: nothing to differ from.",
                remedy="Give beams= and beam_groups= of 2 or more, or leave diversity out.",
            )
        if self.particles is not None and self.sampling != "exact":
            raise InvalidRequestError(
                f'particles is {self.particles} and sampling is "local".',
                remedy='Give sampling="exact" too, or leave particles out.',
            )

    def _check_neutral(
        self, sampling: SamplingParams, name: str, value: object, *, and_temperature: bool
    ) -> None:
        neutral = SamplingParams()
        for field in (*(("temperature",) if and_temperature else ()), *SHAPING):
            given = getattr(sampling, field)
            if given != getattr(neutral, field):
                raise InvalidRequestError(
                    f"{field} is {given} and {name} is {value!r}, which takes the model's own distribution.",
                    remedy=f"Leave {field} out, or {name}.",
                )


SHAPING = (
    *("top_k", "top_p", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias"),
)
"""Fields of `SamplingParams` that change the distribution besides the temperature."""
