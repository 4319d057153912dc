"""The keyword arguments of `LLM.generate`, `LLM.stream` and their asynchronous forms: named once here."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from dcmodel.constraint import Constraint
from dcmodel.errors import InvalidRequestError
from dcmodel.types import GenerateRequest, SamplingParams

F = TypeVar("F", bound=Callable[..., Any])
MaskCallable = Callable[[tuple[int, ...]], Any]
"""Gets the token ids so far (without the prompt), gives the allowed next ones; see `MaskFunction`."""


class GenerateOptions(TypedDict, total=False):
    """Options of one generation; defaults are those of `SamplingParams` and `GenerateRequest`."""

    constraint: Constraint | None
    """Any constraint. The next five are short forms of common ones; give one of the six at most."""
    regex: str | None
    """The text matches this regular expression."""
    json_schema: str | Mapping[str, Any] | bool | type | None
    """The text is JSON for this schema: a dict, its JSON text, or a pydantic model class."""
    grammar: str | None
    """The text is in the language of this Lark grammar."""
    choices: Sequence[str] | None
    """The text is one of these."""
    mask: MaskCallable | None
    """A function of yours that gives the allowed tokens at each step."""
    stop: str | Sequence[str]
    include_stop: bool
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None
    """In a batch, prompt number i is sampled with ``seed + i``."""
    logprobs: bool
    top_logprobs: int


SHORT_FORMS = ("regex", "json_schema", "grammar", "choices", "mask")
SAMPLING = tuple(item.name for item in dataclasses.fields(SamplingParams))
REQUEST = ("include_stop", "max_tokens", "logprobs", "top_logprobs")


def request_template(options: GenerateOptions) -> GenerateRequest:
    """Check all options and put them into a request whose prompt is still to be filled in."""
    given: dict[str, Any] = dict(options)
    _check_names(given)
    sampling = {name: given[name] for name in SAMPLING if name in given}
    if sampling.get("logit_bias") is None:
        sampling.pop("logit_bias", None)
    stop = given.get("stop") or ()
    return GenerateRequest(
        prompt_ids=PLACEHOLDER,
        sampling=SamplingParams(**sampling),
        constraint=_constraint(given),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        **{name: given[name] for name in REQUEST if name in given},
    )


PLACEHOLDER = (0,)


def fill_template(template: GenerateRequest, prompt_ids: tuple[int, ...], index: int) -> GenerateRequest:
    """The request of prompt number `index` of a batch."""
    sampling = template.sampling
    if sampling.seed is not None and index:
        sampling = dataclasses.replace(sampling, seed=sampling.seed + index)
    return dataclasses.replace(template, prompt_ids=prompt_ids, sampling=sampling)


def with_explicit_options(method: F) -> F:
    """Show the options one by one in ``help()`` and in notebooks, where ``**options`` would stand."""
    signature = inspect.signature(method)
    defaults = option_defaults()
    annotations = GenerateOptions.__annotations__
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotations[name]
        )
        for name in annotations
    ]
    own = [item for item in signature.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
    shown = signature.replace(parameters=[*own, *options])
    method.__signature__ = shown  # type: ignore[attr-defined]
    return method


def option_defaults() -> dict[str, Any]:
    """The default of each option."""
    fields = (*dataclasses.fields(SamplingParams), *dataclasses.fields(GenerateRequest))
    declared = {item.name: item.default for item in fields}
    return {name: declared.get(name) for name in GenerateOptions.__annotations__} | {"logit_bias": None}


def _check_names(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in GenerateOptions.__annotations__:
            near = difflib.get_close_matches(name, GenerateOptions.__annotations__, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unexpected keyword argument {name!r}.{hint}")


def _constraint(given: Mapping[str, Any]) -> Constraint | None:
    named = [name for name in ("constraint", *SHORT_FORMS) if given.get(name) is not None]
    if not named:
        return None
    if len(named) > 1:
        raise InvalidRequestError(
            f"{' and '.join(named)} were given together.", remedy="Give one constraint per request."
        )
    name = named[0]
    value = given[name]
    if name != "constraint":
        return constraint_from(name, value)
    if not isinstance(value, Constraint):
        raise InvalidRequestError(
            f"constraint is a {type(value).__name__}, not a Constraint.",
            remedy="Use dcmodel.Regex(...), JsonSchema(...) and the like, or regex=, json_schema= …",
        )
    return value


def constraint_from(form: str, value: Any) -> Constraint:
    """The constraint that a short form stands for."""
    from dcmodel import constraints

    match form:
        case "regex":
            return constraints.Regex(value)
        case "json_schema":
            return constraints.JsonSchema(value)
        case "grammar":
            return constraints.Grammar(value)
        case "choices":
            return constraints.Choice(value)
        case _:
            return constraints.MaskFunction(value)
