"""`WholeAnswers`: texts in one request, verified: under the endpoint's own grammar, or until one is valid."""

from __future__ import annotations

from dcmodel.constraints import Choice, JsonSchema
from dcmodel.errors import InvalidRequestError, MaskNotRepresentableError
from lmql_backends.openai.endpoint_api import ServerGrammar
from lmql_backends.openai.planner.asking import Questions
from lmql_backends.openai.planner.choosing import decides_at_once
from lmql_backends.openai.planner.grammars import any_layout, grammar_plan
from lmql_backends.openai.planner.proposals import Proposal
from lmql_backends.openai.planner.reading import Reading, Rejection
from lmql_backends.openai.planner.settings import PlannerSettings

FIRST_ATTEMPT = 1 << 10
"""Attempts of whole answers have numbers of their own, lest they draw what was drawn before."""


class WholeAnswers:
    """The roads of a draft that has not begun. They use the constraint's forced tokens for nothing."""

    def __init__(self, questions: Questions, settings: PlannerSettings) -> None:
        self._questions = questions
        self._draft = questions.draft
        self._settings = settings

    async def by_grammar(self) -> Rejection | None:
        """The whole text under the endpoint's own grammar, if it has one. What is valid of it is kept; what
        was not is returned."""
        questions, account = self._questions, self._draft.account
        if not self._settings.uses_grammars or self._draft.output_length or self._draft.is_complete:
            return None
        plan = grammar_plan(self._draft.request, questions.asker.capabilities)
        if plan is None or (plan.is_tool and self._has_exact_choice()):
            return None
        kind = plan.grammar.kind
        reading = await self._ask_with(plan.grammar)
        if reading is None and plan.strict is not None:
            reading = await self._ask_with(plan.strict)
        if reading is None:
            return None
        if reading.rejection is not None and self._is_within(reading.rejection):
            account.inexact(f"the endpoint's own grammar ({kind}) lays JSON out in another way")
        elif reading.rejection is not None:
            questions.asker.lied(kind)
            account.inexact(f"the endpoint did not keep to its grammar ({kind})")
        elif plan.is_tool:
            account.inexact(f"a tool with the endpoint's own grammar ({kind}), which the model was told of")
        elif not plan.is_same:
            account.inexact(f"the masks were those of the endpoint's own grammar ({kind})")
        return reading.rejection

    def _is_within(self, rejection: Rejection) -> bool:
        """Whether a refused token keeps to the schema, and not to the constraint's layout of JSON."""
        draft, rule = self._draft, self._draft.request.constraint
        if not isinstance(rule, JsonSchema):
            return False
        matcher = any_layout(rule).compile(draft.tokenizer).matcher()
        ids = [*draft.token_ids[draft.prompt_length :], *(item.token_id for item in rejection.drawn[:1])]
        return matcher.advance(ids) == len(ids)

    def is_one_choice(self) -> bool:
        """Whether one token decides all."""
        row = self._draft.allowed_row()
        is_choice = isinstance(self._draft.request.constraint, Choice)
        return is_choice and row is not None and decides_at_once(self._draft, row)

    def _has_exact_choice(self) -> bool:
        """Whether one token under a mask decides all, for the very prompt that was meant."""
        row = self._draft.allowed_row()
        return self.is_one_choice() and row is not None and self._questions.exactly(row) is not None

    async def until_valid(self, proposal: Proposal | None) -> None:
        """Draw whole answers until one is valid: exact for the distribution given the constraint.

        `proposal`: instead of a free answer. Raises `MaskNotRepresentableError` where none is.
        """
        draft, questions = self._draft, self._questions
        draft.restart()
        most = self._settings.max_retries if draft.sampling_now.temperature else 1
        for attempt in range(most):
            reading = await questions.ask(
                proposal or questions.free(), window=questions.left, attempt=FIRST_ATTEMPT + attempt
            )
            if draft.ending is not None and reading.rejection is None:
                draft.account.is_global("whole answers were drawn until one was valid")
                return
            draft.restart()
        raise MaskNotRepresentableError(
            f"none of {most} whole answers was valid, and the endpoint gives whole answers only.",
            remedy="Use a route that continues texts, such as /completions, or a temperature above 0.",
        )

    async def _ask_with(self, grammar: ServerGrammar) -> Reading | None:
        """An answer under a grammar; None where the endpoint refuses this one."""
        questions = self._questions
        try:
            return await questions.ask(questions.free(), window=questions.left, attempt=0, grammar=grammar)
        except InvalidRequestError as error:
            self._draft.account.remark(f"the endpoint refused a grammar ({grammar.kind}): {error.message}")
            return None
