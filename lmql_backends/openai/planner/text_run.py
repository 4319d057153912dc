"""`TextRun`: one text, from its first token to its last, by the best exact road that the endpoint has."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dcmodel.constraint import Constraint, MaskRow
from dcmodel.constraints import Choice
from dcmodel.errors import DeadEndError, MaskNotRepresentableError
from dcmodel.mask import row_to_bools
from dcmodel.types import FinishReason
from lmql_backends.openai.planner.asking import Questions, apart
from lmql_backends.openai.planner.attempts import Attempts
from lmql_backends.openai.planner.choosing import OptionTokens, decides_at_once
from lmql_backends.openai.planner.corrections import Corrections
from lmql_backends.openai.planner.experience import Experience
from lmql_backends.openai.planner.masks import not_allowed
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.reading import record_of
from lmql_backends.openai.planner.settings import PlannerSettings
from lmql_backends.openai.planner.shortest import ShortestTokens
from lmql_backends.openai.planner.whole_answers import WholeAnswers

MANY_REFUSALS = 4
REPLACEMENT = "\ufffd"
"""Stands for bytes that are no character."""


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
        self._experience = knowledge.experience
        self._questions = questions
        self._draft = questions.draft
        self._settings = settings
        self._attempts = Attempts(questions, settings, knowledge.experience)
        self._corrections = Corrections(self._attempts, settings, knowledge.shortest)
        self._whole = WholeAnswers(questions, settings)
        self._bans_hold = True
        self._beginning = -1
        """The text's first place, as long as nothing was asked for."""

    async def go(self) -> None:
        """Until the draft is complete. Raises dcmodel's errors."""
        draft = self._draft
        draft.holds_back |= not self._questions.can_continue
        rejection = await self._whole.by_grammar()
        if rejection is not None and rejection.are_raw:
            self._attempts.note(rejection, is_free=False)
        if not self._questions.can_continue and not draft.is_complete and not self._whole.is_one_choice():
            await self._whole.until_valid(self._option_mask(draft.request.constraint))
        is_begun = draft.output_length > 0 or rejection is not None
        await apart(draft, draft.force)
        self._beginning = -1 if is_begun else len(draft.token_ids)
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
            self._experience.add_length(self._attempts.rule_key, draft.output_length)

    def _notify(self) -> None:
        if self._draft.is_armed and self._draft.notify is not None:
            self._draft.notify()

    # -- one move ----------------------------------------------------------------------------------

    async def _move(self) -> None:
        draft = self._draft
        row = await apart(draft, draft.allowed_row)
        if row is not None and (sole := draft.sole_choice(row)) is not None:
            draft.draw(sole, record_of(draft, np.nan, ()))
        elif self._attempts.place.attempts and row is not None:
            await self._corrections.correct(row)
        elif (masked := self._first_mask(row)) is not None:
            await self._attempts.ask(masked[0], window=masked[1])
        elif self._is_free(row):
            await self._attempts.ask(self._questions.free(), window=self._questions.left, streams=True)
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

    def _is_free(self, row: MaskRow | None) -> bool:
        """Whether no rule is left: what was healed has come."""
        request, size = self._draft.request, self._draft.vocab_size
        has_rule = request.constraint is not None or request.canonical
        return not has_rule and row is not None and bool(row_to_bools(row, size).all())

    async def _speculate(self, row: MaskRow | None) -> None:
        """Draw freely. Exact: refused draws are thrown away."""
        attempts = self._attempts
        is_beginning = len(self._draft.token_ids) == self._beginning
        is_first = not self._draft.output_length
        window = attempts.next_window()
        wary = self._wary(row)
        opening = self._opening() if is_beginning else None
        reading = await attempts.ask(wary or opening or self._questions.free(), window=window)
        if wary is not None and not reading.taken and reading.rejection is None:
            self._bans_hold = False
        if is_beginning:
            refused = reading.rejection.drawn if reading.rejection is not None and not reading.taken else ()
            self._experience.add_opening(
                attempts.rule_key, [item.token_id for item in refused], reading.lifted
            )
        attempts.fit_window(reading, window, is_first=is_first)

    def _opening(self) -> Proposal | None:
        """Without the tokens with which texts of this rule begin in vain, where what they lose elsewhere can
        be given back."""
        draft, able, sampling = self._draft, self._questions.asker.capabilities, self._draft.sampling_now
        shows_share = able.raw_logprobs and able.max_top_logprobs and able.token_id_prompts
        is_plain = sampling.top_p == 1.0 and not sampling.has_penalties
        if draft.request.constraint is None or not shows_share or not is_plain or self._questions.added:
            return None
        openers = self._experience.openers(self._attempts.rule_key)
        banned = tuple(item for item in openers if self._has_a_name(item))
        proposal = self._questions.means.banning(banned, {}) if banned else None
        return None if proposal is None else replace(proposal, lifted=banned)

    def _has_a_name(self, token_id: int) -> bool:
        """Whether it is shown where it is likely: no end of a text, nor a part of a character."""
        draft = self._draft
        is_token = token_id < draft.vocab_size and token_id not in draft.eos_token_ids
        return is_token and REPLACEMENT not in draft.tokenizer.decode([token_id])

    def _wary(self, row: MaskRow | None) -> Proposal | None:
        """After many refusals: without what is refused usually, as long as that may not soon be allowed."""
        if row is None or self._attempts.refusals < MANY_REFUSALS or not self._bans_hold:
            return None
        means, added, size = self._questions.means, self._questions.added, self._draft.vocab_size
        found = not_allowed(row, self._experience.refused(size), size)[: max(means.most_bans - len(added), 0)]
        return means.banning(found, added) if found else None
