"""`LMTPDcModel`: a model behind a connection, as a `DcModel`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Self

from dcmodel.adapters import AdapterInfo, check_adapter, check_adapter_name
from dcmodel.constraints.mask_answers import Answer
from dcmodel.errors import CapabilityError
from dcmodel.local.base import SequenceModel
from dcmodel.local.session import LocalSession, checked_look
from dcmodel.mask import TokenMask
from dcmodel.model import GenerateStream
from dcmodel.scheduling.mounted import MountedAdapter
from dcmodel.types import GenerateRequest, NextTokens, ScoreRequest, ScoreResult
from dctokenizers import Tokenizer
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.clients.transport import Connector
from lmql_backends.lmtp.parts import joined, score_parts, spans, together
from lmql_backends.lmtp.protocol import distributions, requests, tokenizers
from lmql_backends.lmtp.protocol.messages import (
    Describe,
    Described,
    Distributions,
    GetTokenizer,
    Mount,
    Mounted,
    Scored,
    TokenizerFile,
    Unmount,
    Unmounted,
)
from lmql_backends.lmtp.protocol.results import adapter_info_of, model_info_of, score_result_of
from lmql_backends.lmtp.remote_scheduler import RemoteScheduler
from lmql_backends.lmtp.remote_sessions import ServedName
from lmql_backends.lmtp.retry import RetryPolicy
from lmql_backends.lmtp.stream import RemoteStream
from lmql_backends.lmtp.tokenizer_cache import TokenizerCache


class LMTPDcModel(SequenceModel):
    """Streams, scores and distributions are the server's. Sessions, and requests whose constraint is a
    function of the caller's, run on this side, each with a session of the server's (`RemoteScheduler`)."""

    def __init__(
        self, client: LMTPClient, described: Described, tokenizer: Tokenizer, name: str = ""
    ) -> None:
        """`name`: what the server calls the model; empty: its first one. See `open`."""
        self._client = client
        self._name = name
        self._fingerprint = described.fingerprint
        super().__init__(
            model_info_of(described),
            tokenizer,
            RemoteScheduler(
                client,
                ServedName(name, described.fingerprint),
                vocab_size=tokenizer.vocab_size,
                row_width=described.vocab_size,
            ),
            vocab_size=described.vocab_size,
            max_positions=described.max_positions,
        )
        self.can_heal = described.can_heal
        self._adapters = tuple(map(adapter_info_of, described.adapters))

    @classmethod
    async def open(
        cls,
        connector: Connector,
        name: str = "",
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        retry: RetryPolicy | None = None,
        cache: TokenizerCache | None = None,
    ) -> Self:
        """Connect, and learn what the model is.

        `loop`: where the connection lives; by default dcmodel's own, from which it serves callers in all
        loops. Raises what `Connector.connect` raises, and `ModelNotFoundError`.
        """
        client = LMTPClient(connector, loop=loop, retry=retry)
        try:
            described = await client.ask(lambda id_: Describe(id=id_, model=name), Described)
            tokenizer = await _tokenizer(client, described, name, cache or TokenizerCache())
            return cls(client, described, tokenizer, name)
        except BaseException:
            await client.aclose()
            raise

    def generate(self, request: GenerateRequest) -> GenerateStream:
        self._check_generation(request)
        if request.sampling.seed is None:  # so that a stream that is resumed goes on as it began
            sampling = replace(request.sampling, seed=secrets.randbits(64))
            request = replace(request, sampling=sampling)
        try:
            wire = requests.to_wire(request, model=self._name, fingerprint=self._fingerprint)
        except CapabilityError:  # a caller's function runs here
            return super().generate(request)
        return RemoteStream(request, wire, self._client, self.tokenizer, asyncio.get_running_loop())

    async def session(self, request: GenerateRequest) -> LocalSession:
        # The server's session is opened by its first step; what is not known here is better asked before.
        if request.adapter and all(info.name != request.adapter for info in self._adapters):
            await self._look_at_adapters()
            check_adapter(request.adapter, self._adapters)
        return await super().session(request)

    async def score(self, request: ScoreRequest) -> ScoreResult:
        self._check_score(request)
        return joined(await together([self._score(part) for part in score_parts(request)]))

    async def next_tokens(
        self,
        prefixes: Seq[Seq[int]],
        masks: Seq[Answer] | None = None,
        k: int | None = None,
        *,
        adapter: str | None = None,
    ) -> list[NextTokens]:
        look = checked_look(k, self._vocab_size)
        checked = self._checked_prefixes(prefixes, masks)
        if not checked:
            return []
        width = self._vocab_size if look.k is None else look.k
        sizes = [len(request.prompt_ids) for request, _ in checked]
        parts = [checked[begin:end] for begin, end in spans(sizes, numbers_each=width, is_per_token=False)]
        found = await together([self._next_tokens(part, look.k, adapter) for part in parts])
        return [item for part in found for item in part]

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        scored = await self._client.ask(
            lambda id_: requests.score_to_wire(id_, request, model=self._name, fingerprint=self._fingerprint),
            Scored,
        )
        return score_result_of(request, scored)

    async def _next_tokens(
        self, checked: Seq[tuple[GenerateRequest, TokenMask | None]], k: int | None, adapter: str | None
    ) -> list[NextTokens]:
        found = await self._client.ask(
            lambda id_: requests.next_tokens_to_wire(
                id_,
                [request.prompt_ids for request, _ in checked],
                [mask for _, mask in checked] if any(mask is not None for _, mask in checked) else None,
                k,
                vocab_size=self.tokenizer.vocab_size,
                adapter=adapter,
                model=self._name,
                fingerprint=self._fingerprint,
            ),
            Distributions,
        )
        return list(map(distributions.from_wire, found.items))

    # -- adapters ----------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """What the server had when it was asked last: at the beginning, and with each (un)mounting from
        here. Others may have changed it since: a request that names another one is sent all the same."""
        return self._adapters

    async def mount_adapter(self, name: str, source: str) -> AdapterInfo:
        """`source`: as the server understands it. Raises also `CapabilityError` where it mounts nothing for
        clients."""
        check_adapter_name(name)
        mounted = await self._client.ask(
            lambda id_: Mount(id=id_, name=name, source=source, model=self._name), Mounted
        )
        await self._look_at_adapters()
        return adapter_info_of(mounted.adapter)

    async def unmount_adapter(self, name: str) -> None:
        await self._client.ask(lambda id_: Unmount(id=id_, name=name, model=self._name), Unmounted)
        await self._look_at_adapters()

    async def _look_at_adapters(self) -> None:
        described = await self._client.ask(lambda id_: Describe(id=id_, model=self._name), Described)
        self._adapters = tuple(map(adapter_info_of, described.adapters))

    def _check_generation(self, request: GenerateRequest) -> None:
        super()._check_generation(replace(request, adapter=None) if request.adapter else request)

    def _check_score(self, request: ScoreRequest) -> None:
        super()._check_score(replace(request, adapter=None) if request.adapter else request)

    def _mounted(self, name: str | None) -> MountedAdapter | None:
        return None if name is None else MountedAdapter(name)

    async def aclose(self) -> None:
        await super().aclose()
        await self._client.aclose()


async def _tokenizer(client: LMTPClient, described: Described, name: str, cache: TokenizerCache) -> Tokenizer:
    """From the cache, or from the server."""
    tokenizer = await asyncio.to_thread(cache.read, described)
    if tokenizer is None:
        file = await client.ask(lambda id_: GetTokenizer(id=id_, model=name), TokenizerFile)
        tokenizer = await asyncio.to_thread(tokenizers.from_wire, file)
        await asyncio.to_thread(cache.write, described, file)
    if list(tokenizer.eos_token_ids) != described.eos_token_ids:
        tokenizer = tokenizer.with_eos(described.eos_token_ids)
    return tokenizer
