"""The keyword arguments of `LLM.generate`, `LLM.stream` and their asynchronous forms: named once here."""

from __future__ import annotations

import builtins
import dataclasses
import difflib
import functools
import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

from dcmodel.constraint import Constraint
from dcmodel.constraints.healing import heal
from dcmodel.errors import InvalidRequestError
from dcmodel.llm.prompts import Prompt, prompt_ids
from dcmodel.llm.strategy import SamplingSemantics, Strategy
from dcmodel.types import GenerateRequest, SamplingParams
from dctokenizers import Tokenizer

F = TypeVar("F", bound=Callable[..., Any])
MaskCallable = Callable[[tuple[int, ...]], Any]
"""Gets the token ids so far (without the prompt), gives the allowed next ones; see `MaskFunction`."""


class GenerateOptions(TypedDict, total=False):
    """Options of one generation; defaults are those of `SamplingParams` and `GenerateRequest`."""

    constraint: Constraint | None
    """Any constraint. The next seven are short forms of common ones; of several given, all must hold."""
    regex: str | None
    """The text matches this regular expression."""
    json_schema: object
    """The text is JSON for this schema: a dict, its JSON text, or a type: a pydantic model, dataclass,
    TypedDict, enum, ``Literal[...]``, ``list[int]``, ``A | B`` ..."""
    grammar: str | None
    """The text is in the language of this Lark grammar."""
    choices: Sequence[str] | None
    """The text is one of these."""
    type: builtins.type | str | None
    """The text is a value of this type: int, float, bool, datetime.date, ..., or "email" and the like."""
    not_in: str | Sequence[str] | None
    """None of these phrases appears in the text."""
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
    heal: bool
    """Take back the last tokens of a text prompt that could be the beginning of a longer token, so that
    the model may go on as if the prompt had not ended there. Off for prompts of token ids."""
    canonical: bool
    """Only tokens that the tokenizer itself would put one after the other."""
    adapter: str | None
    """The name of a mounted adapter (see `LLM.mount`); None: the model as it is."""


class DecodingOptions(GenerateOptions, total=False):
    """Options of `generate` that make several texts of one prompt, or search for one (`llm.strategy`)."""

    n: int
    """How many results: so many draws (number i with a seed that follows from `seed` and i), or the best of
    the beams or of `best_of`."""
    best_of: int | None
    """Draw so many, and keep the `n` with the highest log-probability per token; texts that are complete
    under their constraint before those that `max_tokens` cut short, and the same tokens only once."""
    beams: int | None
    """Beam search with so many beams; the constraint's state is forked along."""
    beam_groups: int
    """Diverse beam search: the beams in so many groups of equal size."""
    diversity: float | None
    """What a token costs a group, in nats, for each beam of earlier groups that chose it at this place."""
    length_penalty: float
    """Beams are ranked by their log-probability over their number of tokens to this power: 0, the likeliest
    text; 1, the likeliest tokens on average."""
    sampling: SamplingSemantics
    """``local``: each token from the masked, renormalised distribution. ``exact``: the whole text from the
    model's distribution under the constraint, at temperature 1 unless another is given."""
    particles: int | None
    """Exact sampling by so many weighted texts together; more are closer to the distribution. The result
    is one of them, drawn by weight; the others are its alternatives, the heaviest first. None: independent
    exact draws by rejection, and 32 particles where the model hardly ever satisfies the constraint."""


SHORT_FORMS = ("regex", "json_schema", "grammar", "choices", "type", "not_in", "mask")
SAMPLING = tuple(item.name for item in dataclasses.fields(SamplingParams))
STRATEGY = tuple(item.name for item in dataclasses.fields(Strategy))
REQUEST = ("include_stop", "max_tokens", "logprobs", "top_logprobs", "canonical", "adapter")


@dataclasses.dataclass(frozen=True, slots=True)
class RequestTemplate:
    """Checked options; a prompt makes a request of them."""

    request: GenerateRequest
    """With a prompt that stands for nothing."""
    heal: bool
    strategy: Strategy

    def fill(self, tokenizer: Tokenizer, prompt: Prompt, index: int, *, can_heal: bool) -> GenerateRequest:
        """The request of prompt number `index` of a batch. `can_heal`: the model's own word."""
        request = self.request
        token_ids = prompt_ids(tokenizer, prompt)
        healed, count = "", len(token_ids)
        constraint = request.constraint
        is_about_text = constraint is None or not constraint.is_about_tokens
        if self.heal and can_heal and isinstance(prompt, str) and is_about_text:
            token_ids, healed = heal(tokenizer, token_ids)
        sampling = request.sampling
        if sampling.seed is not None and index:
            sampling = dataclasses.replace(sampling, seed=sampling.seed + index)
        return dataclasses.replace(
            request,
            prompt_ids=token_ids,
            healed=healed,
            # The tokens that come again are not taken from what was asked for.
            max_tokens=request.max_tokens + count - len(token_ids),
            sampling=sampling,
        )


def request_template(options: GenerateOptions) -> RequestTemplate:
    """Check all options; the prompt is still to be filled in."""
    given: dict[str, Any] = dict(options)
    _check_names(given)
    strategy = Strategy(**{name: given[name] for name in STRATEGY if name in given})
    sampling = {name: given[name] for name in SAMPLING if name in given}
    if strategy.sampling == "exact":
        sampling.setdefault("temperature", 1.0)
    if sampling.get("logit_bias") is None:
        sampling.pop("logit_bias", None)
    stop = given.get("stop") or ()
    heal_prompt = given.get("heal", True)
    if not isinstance(heal_prompt, bool):
        raise InvalidRequestError(f"heal is {heal_prompt!r:.40}.", remedy="Give True or False.")
    request = GenerateRequest(
        prompt_ids=PLACEHOLDER,
        sampling=SamplingParams(**sampling),
        constraint=joined_constraint(given),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        **{name: given[name] for name in REQUEST if name in given},
    )
    strategy.check_sampling(request.sampling)
    return RequestTemplate(request, heal_prompt, strategy)


PLACEHOLDER = (0,)


def with_explicit_options(kind: Any, **other_defaults: object) -> Callable[[F], F]:
    """Show the options of a TypedDict one by one in ``help()`` and in notebooks, where ``**options`` would
    stand. `other_defaults`: where the method has its own."""
    defaults = option_defaults() | other_defaults
    annotations: dict[str, Any] = kind.__annotations__

    def decorate(method: F) -> F:
        signature = inspect.signature(method)
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotations[name]
            )
            for name in annotations
        ]
        own = [
            item for item in signature.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        shown = signature.replace(parameters=[*own, *options])
        method.__signature__ = shown  # type: ignore[attr-defined]
        return method

    return decorate


def option_defaults() -> dict[str, Any]:
    """The default of each option."""
    fields = (
        *dataclasses.fields(SamplingParams),
        *dataclasses.fields(GenerateRequest),
        *dataclasses.fields(Strategy),
    )
    declared = {item.name: item.default for item in fields}
    defaults = {name: declared.get(name) for name in DecodingOptions.__annotations__}
    return defaults | {"logit_bias": None, "heal": True}


def refuse_decoding_options(options: Mapping[str, object], where: str) -> None:
    """Raise `InvalidRequestError` for options that go with `generate` alone."""
    for name in STRATEGY:
        if name in options:
            raise InvalidRequestError(
                f"{name} does not go with {where}: it makes one text, token by token.",
                remedy="Use generate or agenerate, or leave it out.",
            )


def _check_names(given: Mapping[str, Any]) -> None:
    for name in given:
        if name not in DecodingOptions.__annotations__:
            near = difflib.get_close_matches(name, DecodingOptions.__annotations__, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unexpected keyword argument {name!r}.{hint}")


def joined_constraint(given: Mapping[str, Any]) -> Constraint | None:
    """What `constraint` and the short forms among the options say together."""
    named = [name for name in ("constraint", *SHORT_FORMS) if given.get(name) is not None]
    if not named:
        return None
    rules = [
        _checked(given[name]) if name == "constraint" else constraint_from(name, given[name])
        for name in named
    ]
    return functools.reduce(operator.and_, rules)


def _checked(value: object) -> Constraint:
    if isinstance(value, Constraint):
        return value
    raise InvalidRequestError(
        f"constraint is a {value.__class__.__name__}, not a Constraint.",
        remedy="Use dcmodel.Regex(...), JsonSchema(...) and the like, or regex=, json_schema= …",
    )


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
        case "type":
            return constraints.Type(value)
        case "not_in":
            return constraints.NotIn(value)
        case _:
            return constraints.MaskFunction(value)
