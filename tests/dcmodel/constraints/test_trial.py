"""What hangs, crashes or fills the memory does so in a helper process, which is ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from llguidance import LLMatcher

from dcmodel.constraints.trial import check_in_child, pool
from dcmodel.errors import InvalidConstraintError

GREEDY_FOR_EVER = LLMatcher.grammar_from_lark('start: WS " x"\nWS: / +/')
CHAIN = "\n".join(f'r{index}: r{index + 1} "a"' for index in range(20_000))
CRASH = LLMatcher.grammar_from_lark(f'start: r0\n{CHAIN}\nr20000: "b"')
BOMB = LLMatcher.grammar_from_lark(
    "start: R0\n" + "\n".join(f"R{index}: R{index + 1} R{index + 1}" for index in range(40)) + '\nR40: "b"'
)
HARMLESS = LLMatcher.grammar_from_lark('start: "a" | "b" start')

posix_only = pytest.mark.skipif(os.name != "posix", reason="limits are the system's")


def helpers_of(process_id: int) -> list[str]:
    """States of the children of a process that run the helper, or have ended and were not waited for."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            command = (stat.parent / "cmdline").read_text()
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == process_id and ("helper.py" in command or state == "Z"):
            states.append(state)
    return states


def test_a_harmless_grammar_passes_and_the_helper_is_kept():
    check_in_child(HARMLESS)
    began = time.perf_counter()
    for _ in range(20):
        check_in_child(HARMLESS)
    assert (time.perf_counter() - began) / 20 < 1


def test_a_wrong_grammar_is_left_to_the_engine_itself():
    check_in_child(LLMatcher.grammar_from_lark("start: NOPE"))


@posix_only
@pytest.mark.parametrize("grammar", [GREEDY_FOR_EVER, BOMB], ids=["greedy", "bomb"])
def test_what_takes_too_long_is_ended(grammar):
    with pytest.raises(InvalidConstraintError, match=r"the grammar took more than 0\.4 s to compile"):
        check_in_child(grammar, seconds=0.4)
    check_in_child(HARMLESS)


@posix_only
def test_what_takes_too_much_memory_is_ended():
    with pytest.raises(InvalidConstraintError, match="the schema took more than 64 MB to compile"):
        check_in_child(BOMB, seconds=60, megabytes=64, what="schema")
    check_in_child(HARMLESS)


@posix_only
def test_what_crashes_the_engine_crashes_the_helper_only():
    with pytest.raises(InvalidConstraintError, match=r"makes the mask engine crash \(SIGSEGV\)"):
        check_in_child(CRASH)
    check_in_child(HARMLESS)


@posix_only
def test_the_clock_ends_what_the_processor_does_not(monkeypatch):
    monkeypatch.setattr(pool, "CLOCK_FACTOR", 0.01)
    monkeypatch.setattr(pool, "START_SECONDS", 0.3)
    with pytest.raises(InvalidConstraintError, match="took more than 30 s"):
        check_in_child(GREEDY_FOR_EVER, seconds=30)


@posix_only
def test_trials_run_side_by_side_and_leave_nothing_behind():
    def run(index: int) -> str:
        try:
            check_in_child(GREEDY_FOR_EVER if index % 3 == 0 else HARMLESS, seconds=0.3)
        except InvalidConstraintError:
            return "ended"
        return "passed"

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(run, range(12)))
    assert results == ["ended" if index % 3 == 0 else "passed" for index in range(12)]
    remaining = helpers_of(os.getpid())
    assert len(remaining) <= 1
    assert "Z" not in remaining


@posix_only
def test_a_forked_process_has_helpers_of_its_own_and_all_end_with_their_processes():
    program = """
import os, sys
from llguidance import LLMatcher
from dcmodel.constraints.trial import check_in_child
grammar = LLMatcher.grammar_from_lark('start: "a" | "b" start')
check_in_child(grammar)
child = os.fork()
check_in_child(grammar)
if child:
    assert os.waitpid(child, 0)[1] == 0
    check_in_child(grammar)
sys.exit(0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_an_interpreter_nothing_is_checked(monkeypatch, caplog):
    monkeypatch.setattr(pool, "_pool", lambda process_id: pool._Pool())
    monkeypatch.setattr(sys, "executable", "")
    check_in_child(GREEDY_FOR_EVER, seconds=0.1)
    assert "without a trial" in caplog.text
