"""What can be set about the planner."""

from __future__ import annotations

from dataclasses import dataclass

from dcmodel.checks import check_integer, check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """How masks are put through where an endpoint has none."""

    max_variation: float = 0.0
    """Where the model's own token is refused, the next one is drawn from the likeliest tokens alone if that
    step is surely within this total variation of the masked distribution. The certificate tells the largest
    that may have occurred. 0: every step is exact."""
    window: int = 32
    """How many tokens are asked for at first; grows while all are accepted."""
    largest_window: int = 256
    streams: bool | None = None
    """Whether answers are read as they come, and left at the first refused token. That saves tokens, and no
    request is shared then. None: where the endpoint takes no lists of prompts."""
    max_attempts: int = 32
    """How often a token is asked for at one place before the search for an exact way ends."""
    is_strict: bool = False
    """Whether the text then ends with an error. Otherwise a token out of a part of the mask is drawn, as
    large as the endpoint can apply: the text is valid all the same, and its certificate says that it is not
    exact, why, and (where that is known) within which bound."""
    max_retries: int = 8
    """How many whole answers are drawn where an answer cannot be continued."""
    loosens_json: bool = True
    """Whether JSON of the default layout may have any white space: what models write, not what we prefer."""
    canonical_json: bool = False
    """Whether the completion's text is JSON laid out as `json.dumps` does it, whatever the model wrote;
    `token_ids`, and the steps of the stream, are what it wrote."""
    masks_choices: bool = True
    """Whether a choice is drawn under a mask from the first token on, where the endpoint can."""
    decisions: bool = False
    """Whether choices are the endpoint's own judgement (``/decisions``), where it has that: one request, and
    probabilities of whole options that are not those of their tokens. `LLM.choose` then gives them, too."""
    uses_grammars: bool = True
    """Whether the endpoint's own grammars are used. Their answers are verified token by token."""

    def __post_init__(self) -> None:
        check_number("max_variation", self.max_variation, low=0.0, high=1.0)
        check_integer("window", self.window, low=1)
        check_integer("largest_window", self.largest_window, low=self.window)
        check_integer("max_attempts", self.max_attempts, low=1)
        check_integer("max_retries", self.max_retries, low=1)
