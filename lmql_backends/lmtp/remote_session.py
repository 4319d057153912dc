"""The server's side of a sequence that this side draws for: masks and checks here, forwards there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from msgspec.structs import replace

from dcmodel.errors import DcModelError, GenerationError
from dcmodel.types import SamplingParams
from lmql_backends.lmtp.client import LMTPClient
from lmql_backends.lmtp.conversation import Conversation
from lmql_backends.lmtp.hand_over import Wakeups
from lmql_backends.lmtp.protocol.messages import (
    Append,
    Cancel,
    ClientMessage,
    Look,
    Looked,
    Open,
    Opened,
    Request,
    Rollback,
    ServerMessage,
    Settle,
    Step,
    Stepped,
)

Ask = Step | Look | Settle
Answer = Stepped | Looked | DcModelError


class RemoteSession(Conversation):
    """A session without constraint or stop strings, which is opened when it is first asked, and again when
    its connection was lost.

    Lives in the client's loop; `answered` is called there, once per question.
    """

    def __init__(self, request: Request, answered: Callable[[RemoteSession, Answer], None]) -> None:
        super().__init__()
        self.sampling: SamplingParams = request.sampling
        """What it draws by where a step says nothing else."""
        self._request = request
        self._answered = answered
        self._output: list[int] = []
        """What stands behind the prompt here."""
        self._held: list[int] = []
        """What stands there, once everything that was sent is done."""
        self._asked: Ask | None = None
        self._answer: Answer | None = None

    def ask(self, client: LMTPClient, output: list[int], ask: Ask) -> None:
        """Ask for something behind `output`; one question at a time."""
        self._output, self._asked = output, ask
        if self.link is None:
            self.is_over = False
            client.enter(self)
        else:
            self.link.send(self._catch_up(ask))

    def close(self) -> None:
        """Let go of the server's side."""
        self.is_over = True
        self._asked = None
        if self.link is not None:
            self.link.send([Cancel(id=self.id)])
            self.link.forget(self)

    def opening(self) -> list[ClientMessage]:
        self._held = []
        assert self._asked is not None
        return [Open(id=self.id, request=self._request), *self._catch_up(self._asked)]

    def receive(self, message: ServerMessage) -> None:
        match message:
            case Opened():
                return
            case Stepped() | Looked() if self._asked is not None:
                if isinstance(self._asked, Step) and message.columns.token_ids:
                    self._held = [*self._output, message.columns.token_ids[-1]]
                self.losses = 0
                self._answer = message
            case _:
                raise GenerationError(f"the server answered {type(message).__name__} in a session.")

    def fail(self, error: DcModelError) -> None:
        """What stands at the server after an error is not relied on: the next question opens it anew."""
        if self.link is not None:
            self.link.send([Cancel(id=self.id)])
        self.is_over = True
        self._answer = error

    def publish(self, wakeups: Wakeups) -> None:
        answer, self._answer = self._answer, None
        if answer is not None and self._asked is not None:
            self._asked = None
            self._answered(self, answer)

    def lost(self) -> bool:
        if self._asked is None:
            self.is_over = True
        return not self.is_over

    def _catch_up(self, ask: Ask) -> list[ClientMessage]:
        """What makes the server's output ours, and then the question."""
        messages: list[ClientMessage] = []
        held, output = self._held, self._output
        common = len(held)
        if held != output[:common]:
            common = len(list(takewhile(_is_same, zip(held, output, strict=False))))
            messages.append(Rollback(id=self.id, count=len(held) - common))
        if len(output) > common:
            messages.append(Append(id=self.id, token_ids=output[common:]))
        self._held = output
        return [*messages, replace(ask, id=self.id)]


def _is_same(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]
