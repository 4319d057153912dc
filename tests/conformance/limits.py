"""What a test may need and not every backend has. What is beyond a declared limit is refused, or marked.

A test says what it needs (``@pytest.mark.needs("log_mass")``), a `Case` what its backend has not, and why
(`Case.limits`). Such a test is skipped there, and the limit's own check runs instead (`test_limits.py`): it
fails where there is no such limit, and where it is kept in silence.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import pytest
from conformance.requests import request, run_one

from dcmodel.constraints import Regex, TokenSet
from dcmodel.errors import AdapterNotFoundError, CapabilityError, ContextLengthError
from dcmodel.model import DcModel
from dcmodel.types import ScoreRequest

Check = Callable[[Callable[..., DcModel]], Awaitable[None]]
"""Takes what opens models. Fails unless the backend refuses what is beyond its limit, or marks it."""


async def log_mass(open_model: Callable[..., DcModel]) -> None:
    """The mass that a mask kept, and log-probabilities after it: NaN where they are not known."""
    model = open_model()
    completion = await run_one(model, request(model, "yes", constraint=TokenSet(range(40, 90)), max_tokens=3))
    for entry in completion.logprobs:
        assert math.isnan(entry.log_mass)
        assert math.isnan(entry.masked_logprob)


async def forced_logprobs(open_model: Callable[..., DcModel]) -> None:
    """Raw log-probabilities of tokens about which nobody was asked: NaN."""
    model = open_model()
    rule = Regex(r"The answer is (yes|no), and that is final\.")
    completion = await run_one(model, request(model, "yes", constraint=rule, max_tokens=60))
    known = zip(completion.forced, completion.logprobs, strict=True)
    forced = [entry for is_forced, entry in known if is_forced]
    assert all(entry.masked_logprob == 0.0 for entry in forced)
    assert any(math.isnan(entry.raw_logprob) for entry in forced)


async def seeds_of_places(open_model: Callable[..., DcModel]) -> None:
    """A seed draws the same token at a place, however the text came there (resumed, or in a session)."""
    model = open_model()
    whole = request(model, "yes", temperature=1.0, seed=7, max_tokens=6, ignore_eos=True)
    begun = (await run_one(model, whole)).token_ids[:3]
    resumed = request(model, "yes", temperature=1.0, seed=7, max_tokens=6, ignore_eos=True, resumed=begun)
    completion = await run_one(model, resumed)
    assert completion.token_ids[:3] == begun
    assert "random numbers" in completion.certificate.detail


async def any_bias(open_model: Callable[..., DcModel]) -> None:
    """Entries of `logit_bias` beyond 100."""
    model = open_model()
    with pytest.raises(CapabilityError, match="logit_bias of 1000"):
        model.generate(request(model, "yes", logit_bias={5: 1000.0}))


async def scores_beyond_the_context(open_model: Callable[..., DcModel]) -> None:
    """The last token of a continuation needs no place of its own."""
    model = open_model(max_context=64)
    prompt = tuple(5 + place % 7 for place in range(63))
    with pytest.raises(ContextLengthError, match="64"):
        await model.score(ScoreRequest(prompt_ids=prompt, continuations=((5, 6),)))


async def adapters(open_model: Callable[..., DcModel]) -> None:
    """LoRA adapters that are mounted and named by requests."""
    model = open_model()
    with pytest.raises(CapabilityError):
        await model.mount_adapter("first", "somewhere")
    with pytest.raises(AdapterNotFoundError):
        model.generate(request(model, "yes", adapter="first"))


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            adapters,
            log_mass,
            forced_logprobs,
            seeds_of_places,
            any_bias,
            scores_beyond_the_context,
        )
    }
)
