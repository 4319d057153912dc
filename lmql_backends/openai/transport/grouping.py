"""`Grouper`: prompts whose requests are otherwise equal share one HTTP request."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from dcmodel.errors import DcModelError, ModelClosedError, OverloadedError
from lmql_backends.openai.transport.answers import Answer, choices_of, parse, share_out
from lmql_backends.openai.transport.counters import Counters
from lmql_backends.openai.transport.failures import AttemptFailed, Kind, to_error
from lmql_backends.openai.transport.gate import Slot
from lmql_backends.openai.transport.http import Reply
from lmql_backends.openai.transport.job import Job
from lmql_backends.openai.transport.jobs import Runner


class Sender(Protocol):
    """One POST of a JSON body. Raises `AttemptFailed` unless the status is 200."""

    async def __call__(self, body: bytes, seconds: float) -> Reply: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSettings:
    """How much one request carries."""

    most_prompts: int = 64
    most_tokens: int = 200_000
    """About how many tokens, of prompts and completions together."""


@dataclass(slots=True, eq=False)
class _Member:
    """One prompt, and who waits for its answer."""

    prompt: str | list[int]
    job: Job
    answer: asyncio.Future[Answer]


@dataclass(slots=True, eq=False)
class _Group:
    shared: dict[str, Any]
    """The body without its prompt."""
    members: list[_Member] = field(default_factory=list)
    tokens: int = 0
    is_open: bool = True
    task: asyncio.Task[None] | None = None


class Grouper:
    """Groups of one route and gate. Lives in one event loop.

    A group is closed when one pass of the loop adds nothing to it and the gate has a place for it: a lone
    prompt waits for nothing, and prompts that have to wait for the gate wait in one group. Where the endpoint
    refuses a group, its halves are tried, so that one bad prompt fails alone.
    """

    def __init__(
        self, runner: Runner, send: Sender, settings: GroupSettings, counters: Counters, where: str
    ) -> None:
        self._runner = runner
        self._send = send
        self._settings = settings
        self._counters = counters
        self._where = where
        self._open: dict[bytes, _Group] = {}
        self._groups: set[_Group] = set()
        self._is_proven = False
        """Whether any group was answered."""
        self._is_trusted = True
        """False as soon as the endpoint showed that it cannot do groups: then each prompt goes alone."""

    async def complete(self, body: Mapping[str, Any], job: Job) -> Answer:
        """The answer to a body with one prompt. Raises the errors that callers see."""
        shared = {name: value for name, value in body.items() if name != "prompt"}
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._join(shared, _Member(body["prompt"], job, answer))
        try:
            async with asyncio.timeout_at(job.deadline):
                return await answer
        except TimeoutError as error:
            raise OverloadedError(
                f"{self._where} gave no answer before the deadline.", remedy="Give it more time."
            ) from error

    async def aclose(self) -> None:
        """Cancel what is under way; whoever waits for it gets `ModelClosedError`."""
        tasks = [group.task for group in self._groups if group.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- inside ------------------------------------------------------------------------------------

    def _join(self, shared: dict[str, Any], member: _Member) -> None:
        key = msgspec.json.encode(shared, order="deterministic")
        group = self._open.get(key)
        if group is None or not self._has_room(group, member):
            group = self._open[key] = _Group(shared)
            self._groups.add(group)
            group.task = asyncio.create_task(self._serve(key, group))
            group.task.add_done_callback(lambda _: self._end(group))
        group.members.append(member)
        group.tokens += member.job.tokens
        member.answer.add_done_callback(lambda _: self._stop_if_abandoned(group))

    def _has_room(self, group: _Group, member: _Member) -> bool:
        return (
            group.is_open
            and self._is_trusted
            and len(group.members) < self._settings.most_prompts
            and group.tokens + member.job.tokens <= self._settings.most_tokens
        )

    def _close(self, key: bytes, group: _Group) -> None:
        group.is_open = False
        if self._open.get(key) is group:
            del self._open[key]

    def _stop_if_abandoned(self, group: _Group) -> None:
        if group.task is not None and all(member.answer.done() for member in group.members):
            group.task.cancel()

    def _end(self, group: _Group) -> None:
        self._groups.discard(group)
        _fail(group.members, ModelClosedError("the transport was closed while the request ran."))

    async def _serve(self, key: bytes, group: _Group) -> None:
        size = 0
        while size != len(group.members):
            size = len(group.members)
            await asyncio.sleep(0)
        try:
            await self._answer(group.shared, group.members, lambda: self._close(key, group))
        except Exception as error:
            # Whatever it is, those who wait have to know.
            _fail(group.members, error)
        finally:
            self._close(key, group)

    async def _answer(
        self, shared: dict[str, Any], members: list[_Member], close: Callable[[], None] = lambda: None
    ) -> None:
        """Answer all members, for better or worse."""
        job = _job_of(members)

        async def attempt(_: Slot, seconds: float) -> _Shares:
            close()
            return await self._ask(
                shared, [member for member in members if not member.answer.done()], seconds
            )

        try:
            shares = await self._runner.run(job, attempt)
        except AttemptFailed as failure:
            if len(members) > 1 and failure.may_be_one_prompt:
                self._counters.bisections += 1
                middle = len(members) // 2
                await self._answer_each(shared, [members[:middle], members[middle:]])
                if not any(_has_failed(member) for member in members):
                    # Nothing was wrong but that they were several.
                    self._is_trusted = False
            else:
                await self._give_up(shared, members, job, to_error(failure, self._where))
        except DcModelError as error:
            # No attempt may have closed the group: whoever comes now must not join it.
            close()
            await self._give_up(shared, members, job, error)
        else:
            left = shares.give_out(job)
            await self._answer_each(shared, [[member] for member in left])

    async def _give_up(
        self, shared: dict[str, Any], members: list[_Member], job: Job, error: DcModelError
    ) -> None:
        """Fail them, but for those who joined later and still have time."""
        later = [member for member in members if error.retryable and member.job.deadline > job.deadline]
        _fail([member for member in members if member not in later], error)
        if later:
            await self._answer(shared, later)

    async def _answer_each(self, shared: dict[str, Any], parts: Sequence[list[_Member]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in parts:
                tasks.create_task(self._answer(shared, part))

    async def _ask(self, shared: dict[str, Any], members: list[_Member], seconds: float) -> _Shares:
        if not members:
            return _Shares([], [], {})
        prompts = [member.prompt for member in members]
        prompt = prompts[0] if len(prompts) == 1 else prompts
        try:
            message = parse(await self._send(msgspec.json.encode({**shared, "prompt": prompt}), seconds))
        except AttemptFailed as failure:
            if failure.status == 500 and len(members) > 1 and not self._is_proven:
                # Some servers break at a list of prompts. Where it is not that, single prompts are retried.
                failure.kind = Kind.PERMANENT
            raise
        choices = share_out(choices_of(message), len(members), shared.get("n") or 1)
        if len(members) == 1:
            if choices is None or choices[0] is None:
                raise AttemptFailed(Kind.BAD_RESPONSE, "an answer with too few choices")
        else:
            self._is_proven = True
            self._counters.groups += 1
            if choices is None:
                self._is_trusted = False
        self._counters.add_usage(message.get("usage"))
        return _Shares(members, choices or [None] * len(members), message)


@dataclass(frozen=True, slots=True)
class _Shares:
    """An answer to several prompts."""

    members: list[_Member]
    choices: list[tuple[dict[str, Any], ...] | None]
    message: dict[str, Any]

    def give_out(self, job: Job) -> list[_Member]:
        """Give each member its choices; those whose choices are missing are returned."""
        left = []
        for member, choices in zip(self.members, self.choices, strict=True):
            if member.answer.done():
                continue
            if choices is None:
                left.append(member)
                continue
            answer = Answer(
                choices=choices,
                usage=self.message.get("usage"),
                group=len(self.members),
                system_fingerprint=self.message.get("system_fingerprint") or "",
                spent=job.spent,
            )
            member.answer.set_result(answer)
        return left


def _job_of(members: Sequence[_Member]) -> Job:
    jobs = [member.job for member in members]
    return replace(
        jobs[0],
        order=min(job.order for job in jobs),
        deadline=max(job.deadline for job in jobs),
        tokens=sum(job.tokens for job in jobs),
        is_sampled=any(job.is_sampled for job in jobs),
        kind=(jobs[0].kind, len(jobs).bit_length()),
        spent=jobs[0].spent,
    )


def _has_failed(member: _Member) -> bool:
    answer = member.answer
    return answer.done() and not answer.cancelled() and answer.exception() is not None


def _fail(members: Sequence[_Member], error: Exception) -> None:
    for member in members:
        if not member.answer.done():
            # Each caller gets its own, lest their tracebacks mix.
            member.answer.set_exception(copy.copy(error))
