"""`TextSession`: what `LLM.session` returns."""

from __future__ import annotations

from collections.abc import Sequence

from dcmodel.constraints.mask_answers import Answer
from dcmodel.llm.prompts import following_ids
from dcmodel.loop import run
from dcmodel.session import Session
from dcmodel.types import Completion, FinishReason, NextTokens, SamplingParams, TokenStep
from dctokenizers import Tokenizer


class TextSession:
    """A `Session` with text for token ids where that is handy, and with synchronous forms.

    `append`, `rollback` and `fork` ask no model; the others ask it for one token, or for the scores of what
    was appended. One caller uses a session at a time; sessions that step together in one event loop
    (``asyncio.gather``) are computed together.
    """

    def __init__(self, session: Session, tokenizer: Tokenizer) -> None:
        self.session = session
        """The session itself, for `dcmodel.decoding` and token-level code."""
        self._tokenizer = tokenizer

    # -- the text ----------------------------------------------------------------------------------

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self.session.prompt_ids

    @property
    def text(self) -> str:
        """Everything after the prompt, in whole characters."""
        return self.session.text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Everything after the prompt."""
        return self.session.token_ids

    @property
    def token_logprobs(self) -> tuple[float, ...]:
        """Raw log-probabilities of `token_ids`, as far as they are known (see `settle`)."""
        return self.session.token_logprobs

    @property
    def raw_logprob(self) -> float:
        """The sum of `token_logprobs`."""
        return self.session.raw_logprob

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow."""
        return self.session.is_finished

    @property
    def is_accepting(self) -> bool:
        """Whether the text so far satisfies the constraint (always, without one)."""
        return self.session.is_accepting

    def forced(self) -> list[int]:
        """The tokens that the constraint leaves no choice about."""
        return self.session.forced()

    def __repr__(self) -> str:
        state = "finished" if self.is_finished else f"{len(self.token_ids)} tokens"
        return f"<TextSession {self.text!r:.60}, {state}>"

    # -- changing it, without the model ------------------------------------------------------------

    def append(self, what: str | Sequence[int]) -> None:
        """Put a text (tokenized by itself), or token ids, behind the text.

        Raises `ConstraintViolationError` for the first token that the constraint refuses, and
        `InvalidRequestError` past the end; the state is then unchanged.
        """
        if isinstance(what, str):
            what = following_ids(self._tokenizer, what)
        self.session.append(what)

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        self.session.rollback(count)

    def fork(self) -> TextSession:
        """An independent session in the same state."""
        return TextSession(self.session.fork(), self._tokenizer)

    # -- asking the model --------------------------------------------------------------------------

    def step(self, mask: Answer = None, *, sampling: SamplingParams | None = None) -> TokenStep:
        """Draw the next token under the constraint and `mask`, and append it.

        `sampling`: other parameters than the session's, for this token.
        """
        return run(self.astep(mask, sampling=sampling))

    async def astep(self, mask: Answer = None, *, sampling: SamplingParams | None = None) -> TokenStep:
        """`step`, awaited."""
        return await self.session.step(mask, sampling=sampling)

    def logprobs(self, mask: Answer = None, *, k: int | None = None) -> NextTokens:
        """The distribution of the next token under the constraint and `mask`: the `k` likeliest, or the
        whole vocabulary by id. The text is unchanged."""
        return run(self.alogprobs(mask, k=k))

    async def alogprobs(self, mask: Answer = None, *, k: int | None = None) -> NextTokens:
        """`logprobs`, awaited."""
        return await self.session.logprobs(mask, k=k)

    def settle(self) -> None:
        """Score the appended tokens that have no log-probabilities yet. (`step` and `logprobs` do it too.)"""
        run(self.asettle())

    async def asettle(self) -> None:
        """`settle`, awaited."""
        await self.session.settle()

    def completion(self, reason: FinishReason | None = None) -> Completion:
        """The text so far as a result, every token scored. `reason`: why it ended, where only you know."""
        return run(self.acompletion(reason))

    async def acompletion(self, reason: FinishReason | None = None) -> Completion:
        """`completion`, awaited."""
        await self.session.settle()
        return self.session.completion(reason)
