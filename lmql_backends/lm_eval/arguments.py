"""What lm_eval hands to a model by name: ``--model_args`` and its own options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from dcmodel.errors import InvalidRequestError

ArgValue = str | int | float | bool | None
"""lm_eval makes numbers and booleans of what looks like them."""


def check_names(given: Mapping[str, ArgValue], accepted: Callable[..., object]) -> None:
    """Raise `InvalidRequestError` for names that are no keywords of `accepted`, naming them."""
    known = [name for name in inspect.signature(accepted).parameters if name != "self"]
    unknown = sorted(set(given).difference(known))
    if unknown:
        raise InvalidRequestError(
            f"the model dcmodel takes no {' and no '.join(map(repr, unknown))} in --model_args.",
            remedy=f"It takes {', '.join(known)}.",
        )


def model_name(model: ArgValue, pretrained: ArgValue) -> str | None:
    """The one name under which the model was given; None: the embedded model."""
    if model is not None and pretrained is not None and model != pretrained:
        raise InvalidRequestError(
            f"both model={model} and pretrained={pretrained} are given.",
            remedy="They mean the same: give one.",
        )
    name = pretrained if model is None else model
    return None if name is None else str(name)


def refuse_remote_code(trust_remote_code: bool) -> None:
    """dcmodel runs no code that comes with a checkpoint."""
    if trust_remote_code:
        raise InvalidRequestError(
            "dcmodel runs no code that comes with a checkpoint.", remedy="Leave trust_remote_code out."
        )
