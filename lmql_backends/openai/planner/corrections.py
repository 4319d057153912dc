"""`Corrections`: a token of the masked distribution in the place of one that was refused."""

from __future__ import annotations

from dataclasses import replace

from dcmodel.constraint import MaskRow
from dcmodel.constraints import Choice
from dcmodel.errors import MaskNotRepresentableError
from lmql_backends.openai.planner.attempts import Attempts
from lmql_backends.openai.planner.drawing import KnownHead, known_head
from lmql_backends.openai.planner.masks import allows, not_allowed
from lmql_backends.openai.planner.place import Place
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.planner.shortest import ShortestTokens

MANY_ATTEMPTS = 3
LEAST_SHARE = 0.5
"""Where the likeliest tokens hold less of the allowed mass than this, masks and bans are the better way."""


class Corrections:
    """From the likeliest tokens where that is exact, under a mask or a list of bans where it is not."""

    def __init__(self, attempts: Attempts, settings: PlannerSettings, shortest: ShortestTokens) -> None:
        self._attempts = attempts
        self._questions = attempts.questions
        self._draft = attempts.draft
        self._account = attempts.draft.account
        self._settings = settings
        self._shortest = shortest

    @property
    def _place(self) -> Place:
        return self._attempts.place

    async def correct(self, row: MaskRow) -> None:
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
            await self._ask_again(bans)
        elif exact is not None:
            await self._attempts.ask(exact, window=1)
        elif self._draft.sampling_now.temperature:
            await self._ask_again(self._questions.free())
        else:
            await self._ask_part(row)

    async def _ask_again(self, proposal: Proposal) -> None:
        """For the rest of the text; after many attempts, for one token."""
        if self._place.attempts < MANY_ATTEMPTS:
            await self._attempts.ask(proposal, window=self._attempts.next_window())
        else:
            await self._attempts.draw_one(proposal)

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
            await self._attempts.ask(proposal, window=1)

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
        await self._attempts.ask(replace(proposal, is_partial=True), window=1)

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
            others = not_allowed(row, self._attempts.experience.refused(size), size)
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
            return head.best is not None and self._attempts.take(head.best)
        if self._settings.max_variation > 0.0 and head.allowed:
            bound = head.local_tv(warmth)
            if bound <= self._settings.max_variation:
                self._account.inexact("tokens were drawn from the likeliest alone", bound)
                return self._attempts.take(head.local(warmth, self._attempts.uniform()))
        bans = self._questions.means.banning(head.seen, {})
        if bans is None and head.rest > 0.0:
            return False
        own, rest = head.weights(warmth)
        if sum(own) < LEAST_SHARE * (sum(own) + rest):
            return False
        item = head.pick(warmth, self._attempts.uniform())
        if item is not None:
            return self._attempts.take(item)
        assert bans is not None
        await self._ask_the_rest(head, bans, row)
        return True

    async def _ask_the_rest(self, head: KnownHead, bans: Proposal, row: MaskRow) -> None:
        """Draw one of the unlikely tokens. It is taken or thrown away; both are right."""
        warmth = self._draft.sampling_now.temperature
        for first in await self._attempts.first_tokens(bans):
            found = first.found
            if found is not None and found.token_id not in head.seen:
                if not allows(row, found.token_id, self._draft.vocab_size):
                    if first.is_raw:
                        self._place.refused.append(found)
                elif head.keeps(found.logprob, warmth, self._attempts.uniform()):
                    self._attempts.take(found)
                    return
            item = head.pick(warmth, self._attempts.uniform())
            if item is not None:
                self._attempts.take(item)
                return
