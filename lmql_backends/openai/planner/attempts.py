"""`Attempts`: asks for the next tokens of one text, and what refused tokens tell of their places."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from dcmodel.scheduling.randomness import SEED_MASK
from dcmodel.types import TopLogprob
from lmql_backends.openai.endpoint_api import Reply
from lmql_backends.openai.planner.asking import Questions
from lmql_backends.openai.planner.experience import Experience
from lmql_backends.openai.planner.place import Place
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.reading import FirstToken, Reading, Rejection, record_of
from lmql_backends.openai.planner.settings import PlannerSettings

SMALLEST_WINDOW = 8
MOST_DRAWS = 64
"""How many draws of one place a request asks for at most; OpenAI gives 128."""


class Attempts:
    """Knows the place that the text has come to."""

    def __init__(self, questions: Questions, settings: PlannerSettings, experience: Experience) -> None:
        self.questions = questions
        self.draft = questions.draft
        self.experience = experience
        self.refusals = 0
        """Tokens of this text that were refused."""
        self._settings = settings
        self._place = Place(-1)
        self._numbers = np.random.default_rng(self.draft.seed & SEED_MASK)
        self._length = None if questions.streams else experience.length(self.rule_key)
        is_long = questions.streams or self._length is not None
        self._window = settings.largest_window if is_long else settings.window

    @property
    def rule_key(self) -> Hashable:
        """What the experience goes by."""
        rule = self.draft.request.constraint
        return None if rule is None else rule.key

    @property
    def place(self) -> Place:
        index = len(self.draft.token_ids)
        if self._place.index != index:
            self._place = Place(index)
        return self._place

    def next_window(self) -> int:
        """How many tokens are asked for: as many as texts of this rule have, where that is known."""
        if self._length is None:
            return self._window
        done = self.draft.output_length
        return min(max(self._length - done, done // 2, SMALLEST_WINDOW), self._window)

    def fit_window(self, reading: Reading, window: int, *, is_first: bool) -> None:
        """Ask for more after an answer that was taken to its end, for less after one that was refused."""
        if self.questions.streams:
            return
        if not reading.is_over and reading.taken >= window:
            self._window = min(2 * self._window, self._settings.largest_window)
        elif reading.is_over and reading.taken < window // 4 and not is_first:
            self._window = max(window // 2, SMALLEST_WINDOW)

    async def ask(self, proposal: Proposal, *, window: int, streams: bool = False) -> Reading:
        """See `Questions.ask`."""
        place = self.place
        place.attempts += 1
        reading = await self.questions.ask(proposal, window=window, attempt=place.attempts, streams=streams)
        if reading.rejection is not None:
            self.note(reading.rejection, is_free=proposal.is_free)
        return reading

    async def draw_one(self, proposal: Proposal) -> None:
        """Draw one token several times, in one request: the first one that is not refused is taken. The more
        attempts there were, the more draws."""
        if self.questions.repeats:
            await self.ask(proposal, window=1)
            return
        for reply in await self._draws(proposal):
            reading = Reading(self.draft, proposal)
            await self.questions.read(reply, reading)
            if reading.rejection is None:
                return
            self.note(reading.rejection, is_free=proposal.is_free)

    async def first_tokens(self, proposal: Proposal) -> list[FirstToken]:
        """Such draws at temperature 1, none of which is taken."""
        found = []
        for reply in await self._draws(proposal, temperature=1.0):
            found.append(FirstToken(self.draft, proposal))
            await self.questions.read(reply, found[-1])
        return found

    async def _draws(self, proposal: Proposal, temperature: float | None = None) -> list[Reply]:
        place = self.place
        count = min(1 << place.attempts, MOST_DRAWS) if self.draft.sampling_now.temperature else 1
        place.attempts += 1
        return await self.questions.draws(
            proposal, count=count, attempt=place.attempts, temperature=temperature
        )

    def note(self, rejection: Rejection, *, is_free: bool) -> None:
        """What a refused token tells of its place."""
        self.experience.add_refused(item.token_id for item in rejection.drawn)
        self.refusals += 1
        index = len(self.draft.token_ids)
        if self._place.index != index:
            self._place = Place(index, attempts=1)
        self._place.note(rejection, is_free=is_free)

    def take(self, item: TopLogprob) -> bool:
        """Put a token at this place that the mask allows."""
        self.draft.draw(item.token_id, record_of(self.draft, item.logprob, self.place.tops or ()))
        return True

    def uniform(self) -> float:
        """Another number of [0, 1) each time."""
        return float(self._numbers.random())
