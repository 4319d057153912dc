"""`TextRun`: one text, from its first token to its last, by the best exact road that the endpoint has."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np

from dcmodel.constraint import Constraint, MaskRow
from dcmodel.constraints import Choice
from dcmodel.errors import DeadEndError, MaskNotRepresentableError
from dcmodel.scheduling.randomness import SEED_MASK
from dcmodel.types import FinishReason, TopLogprob
from lmql_backends.openai.planner.asking import Questions, apart
from lmql_backends.openai.planner.choosing import OptionTokens, decides_at_once
from lmql_backends.openai.planner.drawing import KnownHead, known_head
from lmql_backends.openai.planner.experience import Experience
from lmql_backends.openai.planner.place import Place, allows, not_allowed
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.reading import FirstToken, Reading, Rejection, record_of
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.planner.shortest import ShortestTokens
from lmql_backends.openai.planner.whole_answers import WholeAnswers

SMALLEST_WINDOW = 8
MANY_REFUSALS = 4
MANY_ATTEMPTS = 3
LEAST_SHARE = 0.5
"""Where the likeliest tokens hold less of the allowed mass than this, masks and bans are the better way."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the texts of a planner share."""

    options: OptionTokens
    shortest: ShortestTokens
    experience: Experience


class TextRun:
    """Forced tokens cost nothing. The endpoint's own grammar comes first, where it has one; then tokens are
    drawn freely and taken as far as the constraint accepts them (*prefix acceptance*). A refused token is
    replaced by a draw from the masked distribution: from the likeliest tokens where that is exact, under a
    mask or a list of bans where it is not.
    """

    def __init__(self, questions: Questions, settings: PlannerSettings, knowledge: Knowledge) -> None:
        self._options = knowledge.options
        self._shortest = knowledge.shortest
        self._experience = knowledge.experience
        self._questions = questions
        self._draft = questions.draft
        self._account = questions.draft.account
        self._settings = settings
        self._window = settings.largest_window if questions.streams else settings.window
        self._place = Place(-1)
        self._refusals = 0
        self._bans_hold = True
        self._whole = WholeAnswers(questions, settings)

    async def go(self) -> None:
        """Until the draft is complete. Raises dcmodel's errors."""
        draft = self._draft
        draft.holds_back |= not self._questions.can_continue
        rejection = await self._whole.by_grammar()
        if rejection is not None and rejection.are_raw:
            self._note(rejection, is_free=False)
        if not self._questions.can_continue and not draft.is_complete and not self._whole.is_one_choice():
            await self._whole.until_valid(self._option_mask(draft.request.constraint))
        await apart(draft, draft.force)
        draft.settle()
        self._notify()
        while not draft.is_complete:
            try:
                await self._move()
            except DeadEndError as error:
                draft.backtrack(error)
            draft.settle()
            self._notify()
        if draft.ending is not None and draft.ending[0] is FinishReason.STOP:
            self._experience.add_length(self._rule_key, draft.output_length)

    @property
    def _rule_key(self) -> Hashable:
        rule = self._draft.request.constraint
        return None if rule is None else rule.key

    def _notify(self) -> None:
        if self._draft.is_armed and self._draft.notify is not None:
            self._draft.notify()

    # -- one move ----------------------------------------------------------------------------------

    async def _move(self) -> None:
        draft = self._draft
        if self._place.index != len(draft.token_ids):
            self._place = Place(len(draft.token_ids))
        place = self._place
        row = await apart(draft, draft.allowed_row)
        if row is not None and (sole := draft.sole_choice(row)) is not None:
            draft.draw(sole, record_of(draft, np.nan, ()))
        elif place.attempts and row is not None:
            await self._correct(row)
        elif (masked := self._first_mask(row)) is not None:
            await self._ask(masked[0], window=masked[1])
        else:
            await self._speculate(row)

    def _first_mask(self, row: MaskRow | None) -> tuple[Proposal, int] | None:
        """A mask that is better than a free answer, and how many tokens to draw under it."""
        sampling = self._draft.sampling_now
        if row is None:
            return None
        if sampling.temperature and sampling.top_p < 1.0:
            proposal = self._questions.exactly(row)
            if proposal is None:
                raise MaskNotRepresentableError(
                    "top_p acts on the tokens that the mask leaves, and the endpoint cannot apply this mask.",
                    remedy="Use top_p=1, or temperature 0.",
                )
            return proposal, 1
        rule = self._draft.request.constraint
        if not isinstance(rule, Choice) or not self._settings.masks_choices:
            return None
        proposal = self._questions.exactly(row) if decides_at_once(self._draft, row) else None
        if proposal is not None:
            return proposal, 1
        proposal = self._option_mask(rule)
        return None if proposal is None else (proposal, self._settings.window)

    def _option_mask(self, rule: Constraint | None) -> Proposal | None:
        """Whatever occurs in an option: more than a mask allows, and the same at each place."""
        if not isinstance(rule, Choice):
            return None
        row = self._options.row(rule, self._draft)
        return None if row is None else self._questions.exactly(row)

    async def _speculate(self, row: MaskRow | None) -> None:
        """Draw freely. Exact: refused draws are thrown away."""
        is_first = not self._draft.output_length
        window = self._next_window()
        wary = self._wary(row)
        reading = await self._ask(wary or self._questions.free(), window=window)
        if wary is not None and not reading.taken and reading.rejection is None:
            self._bans_hold = False
        if self._questions.streams:
            return
        if not reading.is_over and reading.taken >= window:
            self._window = min(2 * self._window, self._settings.largest_window)
        elif reading.is_over and reading.taken < window // 4 and not is_first:
            self._window = max(self._window // 2, SMALLEST_WINDOW)

    def _wary(self, row: MaskRow | None) -> Proposal | None:
        """After many refusals: without what is refused usually, as long as that may not soon be allowed."""
        if row is None or self._refusals < MANY_REFUSALS or not self._bans_hold:
            return None
        means, added, size = self._questions.means, self._questions.added, self._draft.vocab_size
        found = not_allowed(row, self._experience.refused(size), size)[: max(means.most_bans - len(added), 0)]
        return means.banning(found, added) if found else None

    def _next_window(self) -> int:
        """How many tokens are asked for: as many as texts of this rule have, where that is known."""
        length = None if self._questions.streams else self._experience.length(self._rule_key)
        if length is None:
            return self._window
        done = self._draft.output_length
        return min(max(length - done, done // 2, SMALLEST_WINDOW), self._window)

    async def _ask(self, proposal: Proposal, *, window: int, temperature: float | None = None) -> Reading:
        place = self._place
        place.attempts += 1
        reading = await self._questions.ask(
            proposal, window=window, attempt=place.attempts, temperature=temperature
        )
        if reading.rejection is not None:
            self._note(reading.rejection, is_free=not proposal.bias and proposal.row is None)
        return reading

    def _note(self, rejection: Rejection, *, is_free: bool) -> None:
        """What a refused token tells of its place."""
        self._experience.add_refused(item.token_id for item in rejection.drawn)
        self._refusals += 1
        index = len(self._draft.token_ids)
        if self._place.index != index:
            self._place = Place(index, attempts=1)
        self._place.note(rejection, is_free=is_free)

    # -- corrections -------------------------------------------------------------------------------

    async def _correct(self, row: MaskRow) -> None:
        """Put a token of the masked distribution in the place of one that was refused, or learn more."""
        if self._bans_dead_ends(row):
            return
        if self._place.attempts >= self._settings.max_attempts:
            await self._ask_at_last(row)
            return
        head = self._head(row)
        if head is not None and await self._draw_from(head, row):
            return
        exact = self._questions.exactly(row)
        bans = self._bans(row) if exact is None or self._is_hopeful(head) else None
        if bans is not None:
            self._place.was_banned = True
            is_hard = self._place.attempts >= MANY_ATTEMPTS
            await self._ask(bans, window=1 if is_hard else self._next_window())
        elif exact is not None:
            await self._ask(exact, window=1)
        elif self._draft.sampling_now.temperature:
            await self._ask(self._questions.free(), window=self._window)
        else:
            await self._ask_part(row)

    def _is_hopeful(self, head: KnownHead | None) -> bool:
        """Whether bans are better than a mask that is exact: they may hold for the rest of the text."""
        is_choice = isinstance(self._draft.request.constraint, Choice)
        return not is_choice and not self._place.was_banned and (head is None or bool(head.allowed))

    async def _ask_at_last(self, row: MaskRow) -> None:
        """After too many attempts. Whatever the endpoint answers, there are not many more."""
        if self._place.attempts >= 2 * self._settings.max_attempts:
            raise self._not_found()
        proposal = self._questions.exactly(row)
        if proposal is None:
            await self._ask_part(row)
        else:
            await self._ask(proposal, window=1)

    async def _ask_part(self, row: MaskRow) -> None:
        """The end of exactness: a token out of as much of the mask as the endpoint can apply."""
        questions, place = self._questions, self._place
        if self._settings.is_strict:
            raise self._not_found()
        room = questions.means.most_bans - len(questions.added)
        seen = frozenset(item.token_id for item in place.tops or ())
        part = self._shortest.part(row, room, first=seen)
        proposal = None if part is None else questions.exactly(part)
        if proposal is None:
            raise self._not_found()
        warmth, head = self._draft.sampling_now.temperature, self._head(row)
        bound = None if head is None or not warmth else head.part_tv(warmth)
        self._account.inexact(
            f"where a mask could not be applied, only {room} of its tokens could be drawn", bound
        )
        await self._ask(replace(proposal, is_partial=True), window=1)

    def _not_found(self) -> MaskNotRepresentableError:
        place, draft = self._place, self._draft
        again = "" if draft.sampling_now.temperature else "at temperature 0 it gives the same again; "
        return MaskNotRepresentableError(
            f"{place.attempts} times the constraint refused what the endpoint gave at place "
            f"{place.index - draft.prompt_length} of the text; {again}the mask is larger than what it takes.",
            remedy="Say in the prompt what is wanted, use a temperature above 0, or an endpoint that takes "
            "grammars, allowed_token_ids or more biases.",
        )

    def _bans_dead_ends(self, row: MaskRow) -> bool:
        """Ban what the mask allows and the constraint refused all the same; whether there was any."""
        size = self._draft.vocab_size
        found = {token_id for token_id in self._place.drawn_ids if allows(row, token_id, size)}
        for token_id in found:
            self._draft.ban(token_id)
        return bool(found)

    def _bans(self, row: MaskRow) -> Proposal | None:
        """Without tokens that are not allowed: those that were seen here, and as many others as there is room
        for, the most usual ones first. None where the model could give no other token than before."""
        means, added, size = self._questions.means, self._questions.added, self._draft.vocab_size
        room = means.most_bans - len(added)
        refused = self._place.forbidden(row, size) if room > 0 else []
        is_stuck = len(self._place.drawn_ids) > room and not self._draft.sampling_now.temperature
        if not refused or is_stuck:
            return None
        others: list[int] = []
        if len(refused) < room:
            others = not_allowed(row, self._experience.refused(size), size)
        if self._place.attempts >= MANY_ATTEMPTS and len(refused) < room:
            like = self._shortest.like([item for item in self._place.drawn_ids if item < size])
            near, half = not_allowed(row, like, size), (room - len(refused)) // 2
            others = [*near[:half], *others, *near[half:]]
        return means.banning(list(dict.fromkeys((*refused, *others)))[:room], added)

    def _head(self, row: MaskRow) -> KnownHead | None:
        """The likeliest tokens, where a draw from them can be exact."""
        place, sampling = self._place, self._draft.sampling_now
        if place.tops is None or self._questions.added or sampling.has_penalties:
            return None
        warmth = sampling.temperature
        if warmth > 1.0 or (0.0 < warmth < 1.0 and not place.are_raw):
            return None
        size = self._draft.vocab_size
        return known_head(
            place.tops, place.refused, [allows(row, item.token_id, size) for item in place.tops]
        )

    async def _draw_from(self, head: KnownHead, row: MaskRow) -> bool:
        """Draw from the likeliest tokens; from the rest, with the endpoint's help. False: another way is
        better, and nothing was done."""
        warmth = self._draft.sampling_now.temperature
        if not warmth:
            return head.best is not None and self._take(head.best)
        if self._settings.max_variation > 0.0 and head.allowed:
            bound = head.local_tv(warmth)
            if bound <= self._settings.max_variation:
                self._account.inexact("tokens were drawn from the likeliest alone", bound)
                return self._take(head.local(warmth, self._uniform()))
        bans = self._questions.means.banning(head.seen, {})
        if bans is None and head.rest > 0.0:
            return False
        own, rest = head.weights(warmth)
        if sum(own) < LEAST_SHARE * (sum(own) + rest):
            return False
        item = head.pick(warmth, self._uniform())
        if item is not None:
            return self._take(item)
        assert bans is not None
        await self._ask_the_rest(head, bans, row)
        return True

    async def _ask_the_rest(self, head: KnownHead, bans: Proposal, row: MaskRow) -> None:
        """Draw one of the unlikely tokens. It is taken or thrown away; both are right."""
        warmth = self._draft.sampling_now.temperature
        self._place.attempts += 1
        first = FirstToken(self._draft, bans)
        await self._questions.ask(
            bans, window=1, attempt=self._place.attempts, temperature=1.0, reading=first
        )
        found = first.found
        if found is None or found.token_id in head.seen:
            return
        if not allows(row, found.token_id, self._draft.vocab_size):
            if first.is_raw:
                self._place.refused.append(found)
        elif head.keeps(found.logprob, warmth, self._uniform()):
            self._take(found)

    def _take(self, item: TopLogprob) -> bool:
        self._draft.draw(item.token_id, record_of(self._draft, item.logprob, self._place.tops or ()))
        return True

    def _uniform(self) -> float:
        place = self._place
        place.attempts += 1
        key = [self._draft.seed & SEED_MASK, place.index, place.attempts]
        return float(np.random.default_rng(key).random())
