"""`LLM` over a real scheduler and a fake engine, beside the plain form of its distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.small_tokenizer import small_tokenizer

from dcmodel import LLM
from dcmodel.local import LocalDcModel


@dataclass
class Plain:
    """Log-probabilities, token by token, without anything of ours."""

    model: FakeModel

    def row(self, context):
        logits = self.model.logits(list(context)).astype(np.float64)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    def logprobs(self, context, token_ids):
        context, found = list(context), []
        for token_id in token_ids:
            found.append(float(self.row(context)[token_id]))
            context.append(token_id)
        return found

    def logprob(self, context, token_ids):
        return math.fsum(self.logprobs(context, token_ids))


def new_llm(*, eos=(1,), **options):
    return LLM.from_model(LocalDcModel(loaded_fake(small_tokenizer().with_eos(eos), **options)))


@pytest.fixture(scope="module")
def llm():
    with new_llm() as llm:
        yield llm


@pytest.fixture(scope="session")
def make_llm():
    return new_llm


@pytest.fixture(scope="session")
def plain():
    """Of the engine that `llm` has (the same seed)."""
    return Plain(FakeModel(small_tokenizer().vocab_size))
