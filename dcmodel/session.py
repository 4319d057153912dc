"""`Session`: a text that the caller extends step by step, and may fork and take back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from dcmodel.constraints.mask_answers import Answer
from dcmodel.types import (
    Completion,
    FinishReason,
    NextTokens,
    SamplingParams,
    TokenLogprobs,
    TokenStep,
)


class Session(ABC):
    """One prompt and what the caller put behind it.

    `fork`, `append` and `rollback` ask no model: they are cheap, and an idle session holds nothing but
    token ids. `step` and `logprobs` ask it for one token; what the sessions of one event loop ask in the
    same turn (``asyncio.gather``) is computed together, and prefixes that were computed are not computed
    again. A session is used by one task at a time; its forks are independent of it.

    Masks are whatever `MaskFunction` may return: a `TokenMask`, ids, booleans, packed bits, a bias dict of
    +-100; None allows everything. A mask comes on top of the session's constraint.
    """

    prompt_ids: tuple[int, ...]

    # -- the text ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def token_ids(self) -> tuple[int, ...]:
        """Everything after the prompt."""

    @property
    @abstractmethod
    def token_logprobs(self) -> tuple[float, ...]:
        """Raw log-probabilities of `token_ids`, of as many as are known: appended tokens are scored by the
        next `step` or `logprobs`, at no cost of their own."""

    @abstractmethod
    def known(self, start: int) -> tuple[TokenLogprobs, ...]:
        """What is known of `token_ids` from the one at `start` on, of as many as `token_logprobs` covers."""

    @property
    def raw_logprob(self) -> float:
        """The sum of `token_logprobs`."""
        return sum(self.token_logprobs)

    @property
    @abstractmethod
    def text(self) -> str:
        """`token_ids` as text; whole characters, as `Completion.text` would have it."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """How many tokens may stand after the prompt: the request's, or what the context leaves."""

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """Whether nothing can follow: an end-of-sequence token, a stop string, a constraint that is complete,
        or `max_tokens`."""

    @property
    def stop_reason(self) -> str:
        """What ended it (see `Completion.stop_reason`); empty while something can follow."""
        return self.completion().stop_reason if self.is_finished else ""

    @property
    @abstractmethod
    def is_accepting(self) -> bool:
        """Whether the text so far satisfies the constraint (always, without one)."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether `append` accepts every token that the constraint's mask allows (`Matcher.is_exact`)."""

    @abstractmethod
    def forced(self) -> list[int]:
        """The tokens that the constraint leaves no choice about (perhaps none); state unchanged."""

    # -- changing it, without the model ------------------------------------------------------------

    @abstractmethod
    def append(
        self,
        token_ids: Sequence[int],
        *,
        logprobs: Sequence[TokenLogprobs] | None = None,
        forced: bool = False,
    ) -> None:
        """Put tokens behind the text. `logprobs`: what is known of them (`NextTokens.of`); they are scored
        by the next step otherwise. `forced`: the constraint left no choice (see `forced()`).

        Raises `ConstraintViolationError` for the first token that the constraint refuses,
        `InvalidRequestError` past the end or `max_tokens`, `TokenRangeError`; the state is then unchanged.
        """

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens. Raises `InvalidRequestError` where there are fewer."""

    @abstractmethod
    def fork(self) -> Self:
        """An independent session in the same state. It draws other random numbers, the same ones each time:
        they follow from the seed and from how often, and in which order, sessions were forked."""

    def skip_forks(self, count: int) -> None:
        """Go on as if it had been forked `count` times more (a session that is built anew elsewhere)."""
        for _ in range(count):
            self.fork()

    # -- asking the model --------------------------------------------------------------------------

    @abstractmethod
    async def step(
        self, mask: Answer = None, *, sampling: SamplingParams | None = None, attempt: int = 0
    ) -> TokenStep:
        """Draw the next token under the constraint and `mask`, and append it.

        `sampling` instead of the session's own, for this token. `attempt`: which random number of this place
        is used; who takes a token back because nothing can follow it draws again with the next one. Raises
        `InvalidRequestError` past the end, `DeadEndError` where nothing is allowed.
        """

    @abstractmethod
    async def logprobs(self, mask: Answer = None, *, k: int | None = None) -> NextTokens:
        """The distribution of the next token under the constraint and `mask`: the `k` likeliest, or the
        whole vocabulary. The text is unchanged."""

    @abstractmethod
    async def settle(self) -> None:
        """Score the appended tokens that have no log-probabilities yet; allowed at the end of the text, too.
        (`step` and `logprobs` do it by the way.)"""

    @abstractmethod
    def completion(self, reason: FinishReason | None = None) -> Completion:
        """The text so far as a result. `reason`: why it ended, where the session cannot know; without one,
        an unfinished text counts as ``cancelled``."""
