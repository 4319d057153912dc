"""What the engine does in silence becomes an error, and the matcher is whole after it."""

from __future__ import annotations

import json
import random
import re

import pytest
from llguidance import LLMatcher, LLParserLimits

from dcmodel.constraints import JsonSchema, Regex
from dcmodel.constraints.llg import LlgCompiled
from dcmodel.constraints.llg_engine import build_engine
from dcmodel.errors import ConstraintRuntimeError, DeadEndError

DEAD_END = LLMatcher.grammar_from_lark('start: ("x" T) | "y"\nT: /a[0-9]+/ & /b[0-9]+/')


def test_a_dead_end_is_an_error_that_can_be_rolled_back(small, masks):
    import numpy as np

    matcher = LlgCompiled(build_engine(DEAD_END, small), DEAD_END, small).matcher()
    assert masks(matcher, small) == {ord("x"), ord("y")}
    assert matcher.advance([ord("x")]) == 1
    for _ in range(2):
        with pytest.raises(DeadEndError, match=r"allows no token after 'x'\."):
            matcher.fill_mask(np.zeros(9, dtype=np.int32))
    assert not matcher.is_accepting
    assert not matcher.is_finished
    assert matcher.forced() == []
    assert matcher.advance([ord("a")]) == 0
    assert "nor is any other" in matcher.explain(ord("a")).reason
    matcher.rollback(1)
    assert masks(matcher, small) == {ord("x"), ord("y")}
    assert matcher.advance([ord("y")]) == 1
    assert matcher.is_finished


def test_a_limit_of_the_engine_is_an_error_that_changes_nothing(small, monkeypatch):
    import numpy as np

    grammar = LLMatcher.grammar_from_lark("start: x\nx: /[a-z]/ x | /[a-z]/")
    limits = LLParserLimits(step_max_items=20)
    engine = build_engine(grammar, small, limits=limits)
    monkeypatch.setattr("dcmodel.constraints.llg_engine.LIMITS", limits)
    matcher = LlgCompiled(engine, grammar, small).matcher()
    with pytest.raises(ConstraintRuntimeError, match="Too many items"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    assert matcher.advance([97]) == 1
    with pytest.raises(ConstraintRuntimeError, match="Too many items"):
        matcher.fill_mask(np.zeros(9, dtype=np.int32))
    matcher.rollback(1)
    assert matcher.advance([97, 98]) == 2


HEAVY = {
    "type": "object",
    "required": ["a"],
    "additionalProperties": False,
    "properties": {"a": {"type": "string", "pattern": r"^(?:\S+\s+){0,249}\S+$", "maxLength": 500}},
}


def heavy_engine(tokenizer, limits):
    grammar = LLMatcher.grammar_from_json_schema(
        HEAVY, overrides={"whitespace_flexible": False, "key_separator": ": "}
    )
    return build_engine(grammar, tokenizer, limits=limits), grammar


def test_a_long_valid_text_is_accepted_without_masks(small):
    """On the engine's own budget for consuming, it looks refused."""
    text = small.encode(json.dumps({"a": " ".join(["w"] * 200)}))
    engine, _ = heavy_engine(small, LLParserLimits())
    assert engine.try_consume_tokens(text) < len(text)
    assert not engine.is_error()
    assert JsonSchema(HEAVY).compile(small).matcher().advance(text) == len(text)


def test_a_text_that_breaks_the_shared_lexer_breaks_no_neighbour(small, masks, monkeypatch):
    limits = LLParserLimits(initial_lexer_fuel=10**6, step_lexer_fuel=10**8)
    engine, grammar = heavy_engine(small, limits)
    monkeypatch.setattr("dcmodel.constraints.llg_engine.LIMITS", limits)
    compiled = LlgCompiled(engine, grammar, small)
    text = small.encode(json.dumps({"a": " ".join(["w"] * 200)}))
    neighbours = [compiled.matcher() for _ in range(3)]
    for matcher in neighbours:
        assert matcher.advance(text[:6]) == 6
    alone = LlgCompiled(heavy_engine(small, limits)[0], grammar, small).matcher()
    alone.advance(text[:6])
    before = masks(alone, small)
    culprit = compiled.matcher()
    assert culprit.advance(text) == len(text)
    assert culprit.is_finished
    assert compiled.engine is not engine
    assert masks(neighbours[0], small) == before
    assert neighbours[1].advance(text[6:]) == len(text) - 6
    neighbours[2].rollback(6)
    assert neighbours[2].advance(text) == len(text)
    assert compiled.matcher().advance(text[:8]) == 8


def test_any_tokenization_is_accepted_though_the_mask_has_one(small, masks):
    matcher = Regex("abc123").compile(small).matcher()
    usual = small.encode("abc123")
    assert matcher.forced() == usual
    assert masks(matcher, small) == {usual[0]}
    assert matcher.fork().advance(list(b"abc123")) == 6
    refused = matcher.explain(ord("a"))
    assert not refused.allowed
    assert "must come next" in refused.reason


def test_explanations_say_where_and_what(small):
    matcher = Regex("(yes|no)[0-9]?").compile(small).matcher()
    matcher.advance(list(b"ye"))
    refused = matcher.explain(ord("q"))
    assert refused.reason == "'q' is not allowed here: the text so far is 'ye'; expected 's'."
    assert refused.expected == ("'s'",)
    matcher.advance([ord("s")])
    assert matcher.explain(small.eos_token_ids[0]).allowed
    refused = matcher.explain(ord("q"))
    assert refused.expected == ("the end", "a digit")
    assert refused.allowed_count == 12
    assert "special token" in matcher.explain(287).reason


def test_numpy_ids_are_ids(small):
    import numpy as np

    matcher = Regex("[ab]+").compile(small).matcher()
    assert matcher.advance(np.array([97, 98, 99])) == 2
    assert matcher.advance(np.array(small.eos_token_ids)) == 2
    matcher.rollback(3)
    assert matcher.advance([97]) == 1


def test_matchers_of_one_rule_run_in_many_threads(large):
    import threading

    import numpy as np

    compiled = JsonSchema({"type": "object"}).compile(large)
    texts = [large.encode(json.dumps({f"k{i}": [i, None, {"x": "y" * i}]})) for i in range(8)]
    failures: list[BaseException] = []

    def run(seed: int) -> None:
        rng = random.Random(seed)
        row = np.zeros(3200, dtype=np.int32)
        try:
            for _ in range(6):
                matcher = compiled.matcher()
                for token_id in rng.choice(texts):
                    matcher.fill_mask(row)
                    assert row[token_id // 32] >> (token_id % 32) & 1 or matcher.forced()
                    assert matcher.advance([token_id]) == 1
                assert matcher.is_finished
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("text", ["x🐢 ok", "漢字🐢", "é"])
def test_forced_text_is_forced_down_to_its_bytes(large, text):
    """Characters that the vocabulary only has in pieces are emitted without a forward as well."""
    matcher = Regex(re.escape(text)).compile(large).matcher()
    forced = matcher.forced()
    assert large.decode_bytes(forced) == text.encode()
    assert matcher.advance(forced) == len(forced)
    assert matcher.is_finished
