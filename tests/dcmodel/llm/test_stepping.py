"""`LLM.next_tokens` and `LLM.session`."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel import LLM, Regex, SamplingParams, TokenMask
from dcmodel.errors import (
    CapabilityError,
    ConstraintViolationError,
    InvalidRequestError,
    TokenRangeError,
)
from dcmodel.llm import TextSession


def close(value):
    return pytest.approx(value, abs=1e-4)


# -- The next token ------------------------------------------------------------------------------------


def test_the_whole_vocabulary_after_a_prompt(llm, plain):
    found = llm.next_tokens("yes")
    row = plain.row(llm.tokenizer.encode_prompt("yes"))
    assert found.token_ids.tolist() == list(range(len(row)))
    np.testing.assert_allclose(found.raw_logprobs, row, atol=1e-4)
    assert found.log_mass == close(0.0)


def test_the_likeliest_of_many_prompts_each_under_its_own_mask(llm, plain):
    prompts = ["yes", "no maybe", llm.tokenizer.encode("answer")]
    allowed = [[5, 6, 7], None, [9]]
    found = llm.next_tokens(prompts, allowed, k=2)
    for prompt, mask, item in zip(prompts, allowed, found, strict=True):
        ids = llm.tokenizer.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        row = plain.row(ids)
        kept = np.array(mask if mask is not None else range(len(row)))
        best = kept[np.argsort(-row[kept])][:2]
        assert item.token_ids.tolist() == best.tolist()
        assert item.raw_logprobs.tolist() == close(row[best].tolist())
        assert item.log_mass == close(math.log(np.exp(row[kept]).sum()))
        assert item.masked_logprobs.tolist() == close((row[best] - item.log_mass).tolist())


async def test_one_prompt_takes_one_mask_and_gives_one_answer_in_both_forms(llm):
    mask = TokenMask.from_ids([5, 6], llm.tokenizer.vocab_size)
    for form in (mask, [5, 6], mask.to_bools()):
        found = llm.next_tokens("yes", form, k=5)
        assert sorted(found.token_ids.tolist()) == [5, 6]
        again = await llm.anext_tokens("yes", form, k=5)
        assert again.raw_logprobs.tolist() == close(found.raw_logprobs.tolist())
    many = await llm.anext_tokens(["yes"], [form], k=5)
    assert [item.token_ids.tolist() for item in many] == [found.token_ids.tolist()]
    assert llm.next_tokens([]) == []


@pytest.mark.parametrize("masks", [[[5]], [[5], [6], [7]], 5])
def test_as_many_masks_as_prompts(llm, masks):
    with pytest.raises(InvalidRequestError, match="one mask for each"):
        llm.next_tokens(["yes", "no"], masks)


def test_what_cannot_work_is_refused(llm):
    with pytest.raises(InvalidRequestError, match="empty"):
        llm.next_tokens(["yes", ""])
    with pytest.raises(TokenRangeError):
        llm.next_tokens([[5, 100_000]])
    with pytest.raises(InvalidRequestError, match="k is 0"):
        llm.next_tokens("yes", k=0)


# -- Sessions ------------------------------------------------------------------------------------------


def test_steps_are_those_of_a_generation(llm):
    options = {"max_tokens": 9, "temperature": 1.0, "seed": 4}
    whole = llm.generate("yes", heal=False, **options)
    session = llm.session("yes", **options)
    assert isinstance(session, TextSession)
    pieces = []
    while not session.is_finished:
        pieces.append(session.step().text)
    assert session.token_ids == whole.token_ids
    assert session.text == "".join(pieces) == whole.text
    completion = session.completion()
    assert (completion.text, completion.stop_reason) == (whole.text, whole.stop_reason)
    assert completion.raw_logprob == close(whole.raw_logprob) == close(session.raw_logprob)


async def test_both_forms_of_a_session_agree(llm):
    one, other = llm.session("yes", seed=3), await llm.asession("yes", seed=3)
    for _ in range(4):
        assert one.step().token_id == (await other.astep()).token_id
    one.append(" no")
    other.append(llm.tokenizer.encode(" no"))
    one.settle()
    await other.asettle()
    assert list(one.token_logprobs) == close(list(other.token_logprobs))
    looked, again = one.logprobs(k=3), await other.alogprobs(k=3)
    assert looked.token_ids.tolist() == again.token_ids.tolist()
    assert one.completion().text == (await other.acompletion()).text == one.text


def test_appended_text_is_scored_with_the_next_look(llm, plain):
    session = llm.session("yes")
    session.append(" no maybe")
    ids = llm.tokenizer.encode(" no maybe")
    assert (session.text, session.token_ids) == (" no maybe", tuple(ids))
    session.logprobs(k=1)
    assert list(session.token_logprobs) == close(plain.logprobs(session.prompt_ids, ids))


def test_a_fork_goes_its_own_way_and_a_rollback_goes_back(llm):
    session = llm.session("yes")
    session.append(" no")
    fork = session.fork()
    fork.append(" maybe")
    assert (session.text, fork.text) == (" no", " no maybe")
    fork.rollback(len(llm.tokenizer.encode(" maybe")))
    assert fork.text == " no"
    fork.rollback(len(fork.token_ids))
    assert (fork.text, session.text) == ("", " no")
    assert "' no'" in repr(session)


def test_a_mask_counts_for_its_step_and_the_constraint_for_all(llm):
    session = llm.session("yes", regex="[0-9]{2}", max_tokens=5)
    digits = [llm.tokenizer.encode(digit)[0] for digit in "37"]
    assert session.step(digits).token_id in digits
    assert not session.is_accepting
    with pytest.raises(ConstraintViolationError):
        session.append("x")
    session.append("5")
    assert session.is_accepting
    assert session.completion().certificate.valid is True
    assert session.forced() == []


def test_a_step_may_be_drawn_otherwise_than_the_rest(llm, plain):
    session = llm.session("yes", temperature=5.0, seed=1)
    step = session.step(sampling=SamplingParams())
    assert step.token_id == int(np.argmax(plain.row(session.prompt_ids)))


def test_a_session_keeps_the_prompts_tokens_unless_told_otherwise(llm):
    """Healed, the prompt's last token would be taken back: "an" begins "answer"."""
    whole = tuple(llm.tokenizer.encode_prompt("yes an"))
    assert llm.session("yes an").prompt_ids == whole
    healed = llm.session("yes an", heal=True).prompt_ids
    assert len(healed) < len(whole)
    assert healed == whole[: len(healed)]


async def test_sessions_of_one_loop_step_together(llm):
    sessions = [await llm.asession("yes", temperature=1.0, seed=seed) for seed in range(20)]
    steps = await asyncio.gather(*(session.astep() for session in sessions))
    for seed, step in enumerate(steps):
        alone = llm.session("yes", temperature=1.0, seed=seed)
        assert alone.step().token_id == step.token_id


def test_what_is_no_text_is_refused(llm):
    session = llm.session("yes")
    with pytest.raises(InvalidRequestError, match="surrogate"):
        session.append("\ud800")
    with pytest.raises(InvalidRequestError):
        session.append([1.5])
    with pytest.raises(InvalidRequestError, match="n does not go with a session"):
        llm.session("yes", n=2)
    with pytest.raises(TypeError, match="regexp"):
        llm.session("yes", regexp="a")


def test_a_session_under_a_constraint_object(llm):
    session = llm.session("yes", constraint=Regex("ab"), max_tokens=5)
    while not session.is_finished:
        session.step()
    assert session.text == "ab"


async def test_a_backend_without_sessions_says_so():
    with LLM.from_model(ScriptedModel()) as llm:
        with pytest.raises(CapabilityError, match="no sessions"):
            llm.session("abc")
        with pytest.raises(CapabilityError, match="no sessions"):
            await llm.asession("abc")
        with pytest.raises(CapabilityError, match="no distributions"):
            llm.next_tokens("abc")
