from __future__ import annotations

import threading
import time

import pytest

from dcmodel.constraint import Constraint
from dcmodel.constraints import Choice, ConstraintCache, Regex
from dcmodel.errors import InvalidConstraintError


class Slow(Constraint):
    kind = "slow"

    def __init__(self, name="a", error=None, seconds=0.05):
        self.name = name
        self.error = error
        self.seconds = seconds
        self.compiled = 0

    @property
    def key(self):
        return (self.kind, self.name)

    def compile(self, tokenizer):
        self.compiled += 1
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return Choice(["a"]).compile(tokenizer)

    def to_dict(self):
        raise NotImplementedError


class Held(Slow):
    """Compiles until it is let go."""

    def __init__(self):
        super().__init__(seconds=0)
        self.begun, self.let_go = threading.Event(), threading.Event()

    def compile(self, tokenizer):
        self.begun.set()
        assert self.let_go.wait(600)
        return super().compile(tokenizer)


def test_a_rule_is_compiled_once_for_a_vocabulary(small):
    cache = ConstraintCache()
    first = cache.get(Regex("a+"), small)
    assert cache.get(Regex("a+"), small) is first
    assert cache.get(Regex("a+"), small.with_eos(small.eos_token_ids)) is first
    assert cache.get(Regex("a+"), small.with_eos([285])) is not first
    assert cache.get(Regex("b+"), small) is not first
    assert len(cache) == 3
    cache.clear()
    assert len(cache) == 0


def test_threads_that_ask_for_one_rule_compile_it_once(small):
    cache, rule, results = ConstraintCache(), Slow(), []
    threads = [threading.Thread(target=lambda: results.append(cache.get(rule, small))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rule.compiled == 1
    assert len(set(map(id, results))) == 1


def test_a_rule_in_the_making_does_not_hold_up_another(small):
    cache, held = ConstraintCache(), Held()
    thread = threading.Thread(target=cache.get, args=(held, small), daemon=True)
    thread.start()
    assert held.begun.wait(60)
    assert cache.get(Choice(["a"]), small)
    assert thread.is_alive()
    held.let_go.set()
    thread.join()


def test_the_least_recently_used_rule_is_dropped(small):
    cache = ConstraintCache(capacity=2)
    rules = [Slow(name, seconds=0) for name in "abc"]
    for index in (0, 1, 0, 2, 0, 1):
        cache.get(rules[index], small)
    assert [rule.compiled for rule in rules] == [1, 2, 1]
    assert len(cache) == 2
    with pytest.raises(ValueError, match="capacity is 0"):
        ConstraintCache(0)


def test_a_rule_that_never_compiles_is_remembered(small):
    cache, rule = ConstraintCache(), Slow(error=InvalidConstraintError("wrong"), seconds=0)
    depths = []
    for _ in range(4):
        with pytest.raises(InvalidConstraintError, match="wrong") as caught:
            cache.get(rule, small)
        depths.append(len(caught.traceback))
    assert rule.compiled == 1
    assert max(depths[1:]) <= 2


def test_another_error_is_not_remembered(small):
    cache, rule = ConstraintCache(), Slow(error=OSError("disk"), seconds=0)
    for _ in range(3):
        with pytest.raises(OSError, match="disk"):
            cache.get(rule, small)
    assert rule.compiled == 3
    assert len(cache) == 0
