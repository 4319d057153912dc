"""/v1/decisions by the official client: the model's own odds between the answers."""

from __future__ import annotations

import pytest

from lmql_backends.lmtp.server.openai.double import Double, OpenAILimits, plan_from

openai = pytest.importorskip("openai")

QUESTIONS = [
    {
        "type": "choice",
        "name": "kind",
        "instructions": "Which?",
        "choices": [{"value": "yes"}, {"value": False}],
    },
    {"type": "predicate", "instructions": "Is it true?"},
    {
        "type": "score",
        "instructions": "How good?",
        "levels": [{"label": "a"}, {"label": "b"}, {"label": "c"}],
    },
]


async def ask(client, **fields):
    given = {"model": "fake", "input": "the quick fox", "questions": QUESTIONS, **fields}
    return await client.decisions.create(**given)


async def test_the_probabilities_are_those_of_the_model(serve, llm):
    async with serve(Double()) as client:
        found = await ask(client)
    choice, predicate, score = found.answers
    options = [[" yes", " false"], [" true", " false"], [" a", " b", " c"]]
    expected = []
    for question, texts in zip(QUESTIONS, options, strict=True):
        prompt = f"the quick fox\n\n{question['instructions']}\nAnswer:"
        expected.append([item.probability for item in (await llm.achoose(prompt, texts)).results])
    assert [item.probability for item in choice.probabilities] == pytest.approx(expected[0])
    assert (choice.name, choice.choice) == ("kind", "yes" if expected[0][0] > 0.5 else False)
    assert choice.confidence == pytest.approx(max(expected[0]))
    assert predicate.probability == pytest.approx(expected[1][0])
    assert [item.label for item in score.probabilities] == ["a", "b", "c"]
    assert score.score == pytest.approx(expected[2][1] + 2 * expected[2][2])
    assert found.usage.output_tokens == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"questions": []},
        {"questions": [{"type": "predicate", "instructions": "a"}] * 401},
        {"questions": [{"type": "guess", "instructions": "a"}]},
        {"questions": [{"type": "choice", "instructions": "a", "choices": [{"value": "a"}] * 2}]},
        {"questions": [{"type": "choice", "instructions": "a", "choices": [{"value": "a"}]}]},
        {"input": [{"type": "function_call", "call_id": "a"}]},
        {"extra_body": {"temperature": 1}},
    ],
)
async def test_what_is_no_question_is_refused(serve, fields):
    async with serve(Double()) as client:
        with pytest.raises(openai.BadRequestError):
            await ask(client, **fields)


async def test_faults_happen_to_decisions_too(serve):
    plan = {"faults": [{"fault": "error", "status": 503, "match": {"route": "decisions"}}]}
    async with serve(Double(plan=plan_from(plan))) as client:
        with pytest.raises(openai.InternalServerError):
            await ask(client)
        await client.completions.create(model="fake", prompt="a", max_tokens=1)
    whole = {"faults": [{"fault": "indices"}, {"fault": "no_choices"}]}
    async with serve(Double(plan=plan_from(whole))) as client:
        assert len((await ask(client)).answers) == 3


async def test_other_servers_have_no_decisions(serve):
    async with serve(Double(OpenAILimits(decisions=False))) as client:
        with pytest.raises(openai.NotFoundError):
            await ask(client)
