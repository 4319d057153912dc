"""A session at the other end of a link to a `FailingWorker`: its text is here, its steps are there."""

from __future__ import annotations

from dcmodel.session import Session


class LinkSession(Session):
    def __init__(self, link, inner: Session) -> None:
        self._link = link
        self._inner = inner
        self.prompt_ids = inner.prompt_ids

    @property
    def token_ids(self):
        return self._inner.token_ids

    @property
    def token_logprobs(self):
        return self._inner.token_logprobs

    def known(self, start):
        return self._inner.known(start)

    @property
    def text(self):
        return self._inner.text

    @property
    def max_tokens(self):
        return self._inner.max_tokens

    @property
    def is_finished(self):
        return self._inner.is_finished

    @property
    def is_accepting(self):
        return self._inner.is_accepting

    @property
    def is_exact(self):
        return self._inner.is_exact

    def forced(self):
        return self._inner.forced()

    def append(self, token_ids, *, logprobs=None, forced=False):
        self._inner.append(token_ids, logprobs=logprobs, forced=forced)

    def rollback(self, count):
        self._inner.rollback(count)

    def fork(self):
        return LinkSession(self._link, self._inner.fork())

    async def step(self, mask=None, *, sampling=None, attempt=0):
        return await self._link.guarded(lambda: self._inner.step(mask, sampling=sampling, attempt=attempt))

    async def logprobs(self, mask=None, *, k=None):
        return await self._link.guarded(lambda: self._inner.logprobs(mask, k=k))

    async def settle(self):
        await self._link.guarded(self._inner.settle)

    def completion(self, reason=None):
        return self._inner.completion(reason)
