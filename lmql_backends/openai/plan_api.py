"""What a planner is given, and what it gives: constrained generation over an `Asker`.

    def plan(asker: Asker, task: PlanTask, report: PlanReport) -> AsyncGenerator[PlannedToken, None]

It ends behind an end-of-sequence token (which it yields), where the matcher is finished, behind a stop
string, or after `max_tokens`. Closed early, it closes its responses, and the report then holds the cost so
far. What it yields is checked against the constraint once more by whoever reads it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from dcmodel.constraint import Constraint, Matcher
from dcmodel.types import Cost, SamplingParams, TopLogprob
from dctokenizers import Tokenizer
from lmql_backends.openai.endpoint_api import NOTHING, Asker


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTask:
    """One text that is to go on."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...] = ()
    """What stands behind the prompt already."""
    max_tokens: int
    """How many tokens may still come."""
    sampling: SamplingParams
    seed: int
    """The request's, or a random one: the planner's own draws follow from it and the place in the output."""
    stop: tuple[str, ...] = ()
    tokenizer: Tokenizer
    matcher: Matcher
    """The planner's own; it has seen `output_ids`."""
    constraint: Constraint | None = None
    """The rule itself, where a grammar can be made of it for the endpoint; None where the text begins with a
    part of the prompt (healing), or with output that exists, so that none can."""
    wants_logprobs: bool = False
    top_logprobs: int = 0
    max_variation: float = 0.0
    """Largest total variation between one step's distribution and the exactly masked one that the user
    allows; 0: exact."""


@dataclass(frozen=True, slots=True)
class PlannedToken:
    """One token of the output."""

    token_id: int
    forced: bool = False
    logprob: float | None = None
    """Raw; None where it is not known."""
    tops: tuple[TopLogprob, ...] = ()
    """Raw, likeliest first."""


@dataclass(slots=True, kw_only=True)
class PlanReport:
    """What the planner writes down while it works."""

    cost: Cost = NOTHING
    exact: bool = True
    """Every token so far came from the exactly masked distribution."""
    bound: float | None = None
    """Where not exact: largest bound of the total variation of one step so far, if known."""
    semantics: str = "local"
    detail: str = ""
    """Which roads were taken, in a few words."""


Planner = Callable[[Asker, PlanTask, PlanReport], AsyncGenerator[PlannedToken, None]]
