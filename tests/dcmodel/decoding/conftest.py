"""A model whose every text can be enumerated: seven tokens, closed-form logits, and a plain reference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest
from fakes.fake_engine import FakeModel, loaded_fake
from fakes.small_tokenizer import small_tokenizer
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from dcmodel.constraint import Constraint, Matcher
from dcmodel.local import LocalDcModel
from dcmodel.mask import allocate_rows, row_to_ids
from dcmodel.session import Session
from dcmodel.types import GenerateRequest, SamplingParams
from dctokenizers import Tokenizer, from_huggingface

TOKENS = ("<|eos|>", "a", "b", "c", "ab", "bc", "abc")
EOS = 0

Paths = dict[tuple[int, ...], float]
"""Log-probabilities of sequences of tokens."""


def seven_tokens() -> Tokenizer:
    hf = HFTokenizer(
        models.BPE(
            vocab={token: place for place, token in enumerate(TOKENS)},
            merges=[("a", "b"), ("b", "c"), ("ab", "c")],
        )
    )
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([TOKENS[EOS]])
    return from_huggingface(hf).with_eos([EOS])


@pytest.fixture(scope="package")
def tokenizer() -> Tokenizer:
    return seven_tokens()


class World:
    """A local model over the fake engine, and all that it can say."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, *, seed: int, scale: float) -> None:
        self.tokenizer = tokenizer
        self.prompt_ids = tuple(tokenizer.encode(prompt))
        self.loaded = loaded_fake(tokenizer, seed=seed, scale=scale, max_sequences=512, kv_tokens=100_000)
        self.model = LocalDcModel(self.loaded)
        self.closed_form = FakeModel(tokenizer.vocab_size, seed=seed, scale=scale)

    async def session(
        self,
        constraint: Constraint | None = None,
        max_tokens: int = 4,
        *,
        seed: int | None = None,
        temperature: float = 1.0,
        **options,
    ) -> Session:
        sampling = SamplingParams(temperature=temperature, seed=seed)
        return await self.model.session(
            GenerateRequest(
                prompt_ids=self.prompt_ids,
                constraint=constraint,
                max_tokens=max_tokens,
                sampling=sampling,
                **options,
            )
        )

    def logprobs(self, token_ids: tuple[int, ...], temperature: float = 1.0) -> np.ndarray:
        """Of the token after the prompt and these, float64."""
        logits = self.closed_form.logits(self.prompt_ids + token_ids).astype(np.float64) / temperature
        return logits - np.logaddexp.reduce(logits)

    def paths(
        self, constraint: Constraint | None = None, max_tokens: int = 4, *, temperature: float = 1.0
    ) -> Paths:
        """All sequences of tokens that end validly, by the constraint's matcher alone."""
        found: Paths = {}
        matcher = constraint.compile(self.tokenizer).matcher() if constraint is not None else None
        self._walk((), 0.0, matcher, [], max_tokens, temperature, found)
        return found

    def local_law(
        self, constraint: Constraint, max_tokens: int = 4, *, temperature: float = 1.0
    ) -> dict[tuple[int, ...], float]:
        """The probabilities of the same sequences where each token is renormalised over what is accepted.

        Where all ends within `max_tokens` they add up to 1.
        """
        found: dict[tuple[int, ...], float] = {}
        for path in self.paths(constraint, max_tokens):
            matcher = constraint.compile(self.tokenizer).matcher()
            total = 0.0
            for place, token_id in enumerate(path):
                logprobs = self.logprobs(path[:place], temperature)
                masked = row_to_ids(self._mask(matcher), self.tokenizer.vocab_size).tolist()
                allowed = [other for other in masked if matcher.fork().advance([other])]
                total += float(logprobs[token_id] - np.logaddexp.reduce(logprobs[allowed]))
                matcher.advance([token_id])
            found[path] = float(np.exp(total))
        return found

    def _walk(
        self,
        path: tuple[int, ...],
        total: float,
        matcher: Matcher | None,
        forced: list[int],
        max_tokens: int,
        temperature: float,
        found: Paths,
    ) -> None:
        is_ended = path[-1:] == (EOS,) or (matcher is not None and not forced and matcher.is_finished)
        if is_ended or len(path) == max_tokens:
            if matcher is None or matcher.is_accepting:
                found[path] = total
            return
        forced = forced or (matcher.forced() if matcher is not None else [])
        if forced:
            candidates = forced[:1]
        elif matcher is not None:
            candidates = row_to_ids(self._mask(matcher), self.tokenizer.vocab_size).tolist()
        else:
            candidates = range(self.tokenizer.vocab_size)
        logprobs = self.logprobs(path, temperature)
        for token_id in candidates:
            after = matcher.fork() if matcher is not None else None
            if after is not None and after.advance([token_id]) != 1:
                assert not matcher.is_exact
                continue
            self._walk(
                (*path, token_id),
                total + float(logprobs[token_id]),
                after,
                forced[1:],
                max_tokens,
                temperature,
                found,
            )

    def _mask(self, matcher: Matcher) -> np.ndarray:
        row = allocate_rows(1, self.tokenizer.vocab_size)[0]
        matcher.fill_mask(row)
        return row

    def text(self, path: tuple[int, ...]) -> str:
        return self.tokenizer.decode([token_id for token_id in path if token_id != EOS])


@pytest.fixture
async def make_world(tokenizer: Tokenizer) -> AsyncIterator[Callable[..., World]]:
    """Makes worlds of seven tokens (or of the given tokenizer's), closed when the test ends."""
    made: list[World] = []

    def make(
        seed: int = 0, *, scale: float = 1.0, tokenizer: Tokenizer = tokenizer, prompt: str = "abcab"
    ) -> World:
        made.append(World(tokenizer, prompt, seed=seed, scale=scale))
        return made[-1]

    yield make
    await asyncio.gather(*(world.model.aclose() for world in made))


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def words(make_world: Callable[..., World]) -> World:
    """A vocabulary of bytes and words, in which a constraint forces long runs of tokens."""
    # Id 0 is the beginning-of-sequence token there; no constraint allows it.
    return make_world(tokenizer=small_tokenizer(), prompt="yes")
