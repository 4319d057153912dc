"""The client's end of a `ServerConnection`, without a transport; engines and caches that stop on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dcmodel.constraints import ConstraintCache
from dcmodel.engine import GenerateBatch
from dcmodel.local import LocalDcModel
from dcmodel.sampler import NumpyLogitRows
from fakes.fake_engine import FakeEngine, loaded_fake
from fakes.served import ServedModels
from fakes.small_tokenizer import small_tokenizer
from lmql_backends.lmtp.protocol.codec import MSGPACK, Codec
from lmql_backends.lmtp.protocol.columns import steps_of
from lmql_backends.lmtp.protocol.messages import (
    ClientMessage,
    Done,
    Failed,
    Generate,
    Hello,
    Request,
    ServerMessage,
    Tokens,
)
from lmql_backends.lmtp.server.connection import ServerConnection
from lmql_backends.lmtp.server.limits import ConnectionLimits


class Peer:
    """Says what a test says, through a codec, and keeps what comes back."""

    def __init__(
        self, models: ServedModels, *, codec: Codec = MSGPACK, greets: bool = True, **limits
    ) -> None:
        self.models = models
        self.codec = codec
        self.frames: list[list[ServerMessage]] = []
        self._news = asyncio.Event()
        self.connection = ServerConnection(models, self._take, ConnectionLimits(**limits))
        if greets:
            self.say(Hello(versions=[2]))

    def say(self, *messages: ClientMessage) -> None:
        """One frame."""
        decoded = self.codec.decode_client(self.codec.encode(messages))
        self.connection.receive(decoded.messages, decoded.bad)

    def say_raw(self, frame: str | bytes) -> None:
        decoded = self.codec.decode_client(frame)
        self.connection.receive(decoded.messages, decoded.bad)

    def _take(self, messages: list[ServerMessage]) -> None:
        decoded = self.codec.decode_server(self.codec.encode(messages))
        assert not decoded.bad
        self.frames.append(decoded.messages)
        self._news.set()

    @property
    def messages(self) -> list[ServerMessage]:
        return [message for frame in self.frames for message in frame]

    def of(self, id_: int) -> list[ServerMessage]:
        """All about one conversation."""
        return [message for message in self.messages if getattr(message, "id", None) == id_]

    async def until(self, is_there: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not is_there():
                self._news.clear()
                await self._news.wait()

    async def answers(self, id_: int, count: int = 1) -> list[ServerMessage]:
        """The first answers of a conversation, tokens aside."""

        def found() -> list[ServerMessage]:
            return [message for message in self.of(id_) if not isinstance(message, Tokens)]

        await self.until(lambda: len(found()) >= count)
        return found()[:count]

    async def answer(self, id_: int) -> ServerMessage:
        return (await self.answers(id_))[0]

    async def done(self, id_: int) -> Done:
        answer = await self.answer(id_)
        assert isinstance(answer, Done), answer
        return answer

    async def failed(self, id_: int) -> Failed:
        answer = await self.answer(id_)
        assert isinstance(answer, Failed), answer
        return answer

    async def tokens(self, id_: int, count: int) -> list[int]:
        await self.until(lambda: len(self.token_ids(id_)) >= count)
        return self.token_ids(id_)

    def token_ids(self, id_: int) -> list[int]:
        return [step.token_id for step in self.steps(id_)]

    def steps(self, id_: int) -> list:
        """Checks on the way that each token came once, in its place."""
        steps = []
        start = None
        for message in self.of(id_):
            if isinstance(message, Tokens):
                start = message.at if start is None else start
                assert message.at == start + len(steps)
                steps += steps_of(message.columns)
        return steps

    async def aclose(self) -> None:
        await self.connection.aclose()


def generate(id_: int, prompt: str | list[int], **options) -> Generate:
    """A stream; `received` and `credit` are the message's own."""
    own = {name: options.pop(name) for name in ("received", "credit") if name in options}
    options.setdefault("max_tokens", 12)
    return Generate(id=id_, request=Request(prompt=prompt, **options), **own)


class FakeModels(ServedModels):
    """One model, `fake`."""

    def __init__(self, model: LocalDcModel, engine: FakeEngine) -> None:
        super().__init__({"fake": model})
        self.fake = model
        self.engine = engine


def fake_models(*, engine: type[FakeEngine] = FakeEngine, cache: ConstraintCache | None = None, **options):
    """Over an engine of the given kind."""
    loaded = loaded_fake(small_tokenizer())
    loaded = replace(loaded, engine=engine(loaded.engine.model, **options))
    return FakeModels(LocalDcModel(loaded, constraints=cache), loaded.engine)


@dataclass(eq=False)
class HeldEngine(FakeEngine):
    """Stops before the forward with the number `hold_at`, until it is let go."""

    hold_at: int = -1
    forwards: int = 0
    is_held: threading.Event = field(default_factory=threading.Event)
    may_go: threading.Event = field(default_factory=threading.Event)

    def forward(self, batch: GenerateBatch) -> NumpyLogitRows:
        if self.forwards == self.hold_at:
            self.is_held.set()
            assert self.may_go.wait(60)
        self.forwards += 1
        return super().forward(batch)


class HeldCache(ConstraintCache):
    """Compiles nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_held = threading.Event()
        self.may_go = threading.Event()

    def get(self, constraint, tokenizer):
        self.is_held.set()
        assert self.may_go.wait(60)
        return super().get(constraint, tokenizer)
