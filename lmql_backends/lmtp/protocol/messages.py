"""The messages of LMTP version 2. A frame is a list of them; JSON and MessagePack have the same fields.

Every conversation has a number, `id`, that the client chose and does not use again on this connection: a
stream of tokens, a question, or a session. Messages of one conversation keep their order. Fields that have
their default are left out; unknown fields are ignored, so that a peer may be newer.
"""

from __future__ import annotations

from typing import Any

import msgspec

from dcmodel.types import Certificate, SamplingParams, Usage
from lmql_backends.lmtp.protocol.parts import Adapter as Adapter
from lmql_backends.lmtp.protocol.parts import Columns as Columns
from lmql_backends.lmtp.protocol.parts import Count as Count
from lmql_backends.lmtp.protocol.parts import Distribution as Distribution
from lmql_backends.lmtp.protocol.parts import Id as Id
from lmql_backends.lmtp.protocol.parts import Mask as Mask
from lmql_backends.lmtp.protocol.parts import Part as Part
from lmql_backends.lmtp.protocol.parts import Request as Request
from lmql_backends.lmtp.protocol.parts import Scores as Scores
from lmql_backends.lmtp.protocol.parts import TokenId as TokenId
from lmql_backends.lmtp.protocol.parts import Top as Top

VERSION = 2


class Message(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False, tag_field="type", tag=str.lower):
    """Base of all messages; the tag is the class's name in small letters."""


# -- from the client ---------------------------------------------------------------------------------


class Hello(Message):
    """The first message of a connection."""

    versions: list[int]
    peer: str = ""
    """Name and version of the client, for logs."""


class Describe(Message):
    """What stands behind a name? Answer: `Described`."""

    id: Id
    model: str = ""
    """Empty: the server's first one."""


class GetTokenizer(Message):
    """Answer: `TokenizerFile`."""

    id: Id
    model: str = ""


class Generate(Message):
    """Answers: `Tokens` …, then `Done` or `Failed`."""

    id: Id
    request: Request
    received: list[TokenId] = []
    """Resuming: what the client has of the output already. The answer goes on behind it."""
    credit: Count | None = None
    """How many tokens may be sent before more `Credit` comes; None: any number."""


class Score(Message):
    """Answer: `Scored` or `Failed`."""

    id: Id
    prompt: list[TokenId]
    continuations: list[list[TokenId]] = []
    top_logprobs: Count = 0
    prompt_logprobs: Count | None = None
    adapter: str = ""
    model: str = ""
    fingerprint: str = ""


class NextTokens(Message):
    """Answer: `Distributions` or `Failed`."""

    id: Id
    prefixes: list[list[TokenId]]
    masks: list[Mask | None] | None = None
    k: Count | None = None
    adapter: str = ""
    model: str = ""
    fingerprint: str = ""


class Mount(Message):
    """Mount an adapter, where the server allows it. Answer: `Mounted` or `Failed`."""

    id: Id
    name: str
    source: str
    """A path or a name as the server understands it; nothing is uploaded."""
    model: str = ""


class Unmount(Message):
    """Answer: `Unmounted` or `Failed`."""

    id: Id
    name: str
    model: str = ""


class Open(Message):
    """Open a session. Answer: `Opened` or `Failed`; the messages below need not wait for it."""

    id: Id
    request: Request
    forked: list[Count] = []
    """Resuming: the numbers of the forks that led here from the first session, and of those made here."""


class Append(Message):
    """No answer; what is wrong with it is the answer to the next message that has one."""

    id: Id
    token_ids: list[TokenId]
    forced: bool = False


class Rollback(Message):
    """No answer."""

    id: Id
    count: Count


class Fork(Message):
    """A new session `to` in the same state as `id`. No answer."""

    id: Id
    to: Id


class Step(Message):
    """Draw the next token and append it. Answer: `Stepped` or `Failed`."""

    id: Id
    mask: Mask | None = None
    sampling: SamplingParams | None = None
    """Instead of the session's own, for this token."""
    attempt: Count = 0
    """Which random number of this place is used: a client that refused a token asks again with the next."""
    known: Count = 0
    """Of how many tokens of the output the client has log-probabilities: the answer has those behind."""


class Look(Message):
    """The distribution of the next token, which is not drawn. Answer: `Looked` or `Failed`."""

    id: Id
    mask: Mask | None = None
    k: Count | None = None
    known: Count = 0


class Settle(Message):
    """Score what was appended. Answer: `Stepped` without a drawn token, or `Failed`."""

    id: Id
    known: Count = 0


class Cancel(Message):
    """End a stream (`Done`, with what there is), a question (`Failed`) or a session (no answer)."""

    id: Id


class Credit(Message):
    """So many more tokens of a stream may be sent."""

    id: Id
    tokens: Count


Question = Hello | Describe | GetTokenizer | Generate | Score | NextTokens | Mount | Unmount
SessionMessage = Open | Append | Rollback | Fork | Step | Look | Settle
ClientMessage = Question | SessionMessage | Cancel | Credit


# -- from the server ---------------------------------------------------------------------------------


class Welcome(Message):
    """The answer to `Hello`."""

    version: int
    server: str
    """Name and version, for logs."""
    max_frame_bytes: int
    max_streams: int
    """Conversations that may be open at a time on a connection."""
    models: list[str] = []


class Described(Message):
    """`ModelInfo` and what a client must know of the vocabulary."""

    id: Id
    name: str
    backend: str
    vocab_size: int
    """Width of a logit row."""
    max_positions: int
    fingerprint: str
    eos_token_ids: list[int] = []
    device: str = ""
    dtype: str = ""
    details: dict[str, str] = {}
    chat_template: str = ""
    can_heal: bool = False
    adapters: list[Adapter] = []
    """What is mounted now, in the order of mounting."""


class TokenizerFile(Message):
    """A tokenizer as bytes; `tokenizers.py` makes and reads it."""

    id: Id
    form: str
    data: bytes
    fields: dict[str, Any] = {}


class Tokens(Message):
    """News of a stream."""

    id: Id
    at: int
    """Place in the output of the first of them: nothing is lost or doubled unnoticed."""
    columns: Columns
    finish_reason: str = ""
    """Of the last of them, where it ends the output."""


class Done(Message):
    """The end of a stream."""

    id: Id
    tokens: int
    """Length of the whole output."""
    finish_reason: str
    stop_reason: str
    usage: Usage
    certificate: Certificate
    text: str = ""
    """What the end adds to the text behind the last token's."""
    whole_text: str | None = None
    """Of a resumed stream: the text of the whole output."""
    forced: list[int] = []
    """Of a resumed stream: offsets in the whole output of the tokens that were forced, ascending."""


class Scored(Message):
    id: Id
    usage: Usage
    continuations: list[Scores] = []
    prompt: Scores | None = None


class Distributions(Message):
    id: Id
    items: list[Distribution]


class Mounted(Message):
    id: Id
    adapter: Adapter


class Unmounted(Message):
    """Nothing new can name it; what runs with it goes on."""

    id: Id


class Opened(Message):
    id: Id
    max_tokens: int
    """How many tokens may stand behind the prompt."""


class Stepped(Message):
    """What a session knows of its output behind the client's `known` tokens; the drawn one is the last."""

    id: Id
    columns: Columns
    finish_reason: str = ""
    stop_reason: str = ""


class Looked(Message):
    id: Id
    distribution: Distribution
    columns: Columns


class Failed(Message):
    """The end of a stream or a question by an error, or (session) the answer to one message."""

    id: Id
    code: str
    """The name of a class of `dcmodel.errors` without ``Error``, with underscores (`errors.py`)."""
    message: str
    remedy: str = ""
    retryable: bool = False
    retry_after: float | None = None
    """Seconds."""
    details: dict[str, Any] = {}


class BadFrame(Message):
    """A frame, or a message in it, that could not be read; the rest goes on."""

    message: str
    id: Id | None = None


class GoAway(Message):
    """The server takes nothing new: it is about to end. What runs goes on."""

    reason: str
    retry_after: float | None = None


ServerMessage = (
    Welcome
    | Described
    | TokenizerFile
    | Tokens
    | Done
    | Scored
    | Distributions
    | Mounted
    | Unmounted
    | Opened
    | Stepped
    | Looked
    | Failed
    | BadFrame
    | GoAway
)
