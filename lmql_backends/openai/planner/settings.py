"""What can be set about the planner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dcmodel.checks import check_integer, check_number
from dcmodel.errors import InvalidRequestError

Correction = Literal["exact", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """How masks are put through where an endpoint has none."""

    correction: Correction = "exact"
    """What happens where the model's own token is refused. ``exact``: the next one is from the masked
    distribution, whatever that costs. ``local``: it is drawn from those of the likeliest tokens that are
    allowed, at no cost, where that is within `max_tv` of the masked distribution."""
    max_tv: float = 0.05
    """``local``: the largest total variation of one step that is allowed; the certificate tells the largest
    that may have occurred."""
    window: int = 32
    """How many tokens are asked for at first; grows while all are accepted."""
    largest_window: int = 256
    streams: bool | None = None
    """Whether answers are read as they come, and left at the first refused token. That saves tokens, and keeps
    requests from being shared. None: where the endpoint takes no lists of prompts."""
    max_attempts: int = 64
    """How often a token is asked for at one place."""
    max_retries: int = 8
    """How many whole answers are drawn where an answer cannot be continued."""
    uses_grammars: bool = True
    """Whether the endpoint's own grammars are used. Their answers are verified token by token."""
    loosens_json: bool = True
    """Whether JSON of the default layout may have any white space: what models write, not what we prefer."""
    canonical_json: bool = False
    """Whether the completion's text is JSON laid out as `json.dumps` does it, whatever the model wrote;
    `token_ids`, and the steps of the stream, are what it wrote."""

    def __post_init__(self) -> None:
        if self.correction not in ("exact", "local"):
            raise InvalidRequestError(
                f"correction is {self.correction!r}.", remedy="It is 'exact' or 'local'."
            )
        check_number("max_tv", self.max_tv, low=0.0, high=1.0)
        check_integer("window", self.window, low=1)
        check_integer("largest_window", self.largest_window, low=self.window)
        check_integer("max_attempts", self.max_attempts, low=1)
        check_integer("max_retries", self.max_retries, low=1)
