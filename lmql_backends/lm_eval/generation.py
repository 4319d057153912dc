"""A task's ``generation_kwargs`` to the options of a request."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from dcmodel.errors import InvalidRequestError
from dcmodel.types import SamplingParams

logger = logging.getLogger(__name__)

SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")
"""Names that mean the same here and there."""
ONLY_ONE = ("num_beams", "num_return_sequences")
KNOWN = ("until", "max_gen_toks", "do_sample", "temperature", *SAMPLING)


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """What one request of a task asks for."""

    until: tuple[str, ...]
    """Texts that end the generation and are left out; the written end-of-sequence token is among them."""
    max_gen_toks: int
    sampling: SamplingParams


def generation_options(
    kwargs: Mapping[str, Any], *, max_gen_toks: int, eos_text: str | None, seed: int | None
) -> GenerationOptions:
    """Read by lm_eval's own rules: greedy unless there is a temperature, aliases of `max_gen_toks`.

    Raises `InvalidRequestError` for what has no meaning here; a value that were ignored would change scores.
    """
    if not isinstance(kwargs, Mapping):
        raise InvalidRequestError(
            f"generation_kwargs is a {type(kwargs).__name__}.", remedy="Give a mapping."
        )
    given = dict(normalize_gen_kwargs(dict(kwargs), max_gen_toks))
    until = handle_stop_sequences(given.pop("until"), eos=eos_text)
    if "" in until:
        logger.warning("An empty text in `until` ends nothing and is left out.")
    length = int(given.pop("max_gen_toks"))
    for name in ONLY_ONE:
        if given.pop(name, 1) != 1:
            raise InvalidRequestError(f"generation_kwargs: {name} can only be 1.", remedy="Leave it out.")
    is_sampled = bool(given.pop("do_sample"))
    temperature = float(given.pop("temperature", 0.0))
    unknown = sorted(set(given).difference(SAMPLING))
    if unknown:
        raise InvalidRequestError(
            f"generation_kwargs: the model dcmodel knows no {' and no '.join(map(repr, unknown))}.",
            remedy=f"It knows {', '.join(KNOWN)}.",
        )
    # `generate` would ignore these without sampling.
    chosen = {name: given[name] for name in SAMPLING if name in given and given[name] is not None}
    if not is_sampled:
        chosen = {name: value for name, value in chosen.items() if name == "repetition_penalty"}
    sampling = SamplingParams(temperature=temperature if is_sampled else 0.0, seed=seed, **chosen)
    return GenerationOptions(tuple(text for text in until if text), length, sampling)
