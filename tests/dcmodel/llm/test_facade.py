from __future__ import annotations

import inspect

import pytest

from dcmodel import LLM

PUBLIC = {name: value for name, value in inspect.getmembers(LLM, callable) if not name.startswith("_")}
SYNCHRONOUS = [name for name in PUBLIC if f"a{name}" in PUBLIC]


def test_every_method_is_there_in_both_forms():
    others = {"from_model"}
    assert {*SYNCHRONOUS, *(f"a{name}" for name in SYNCHRONOUS)} == set(PUBLIC) - others
    assert set(SYNCHRONOUS) == {
        *("generate", "stream", "score", "score_prompt", "choose", "distribution", "rolling"),
        *("next_tokens", "session", "chat_prompt", "close", "mount", "unmount"),
    }


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_both_forms_take_the_same_arguments_with_the_same_defaults(name):
    assert inspect.signature(PUBLIC[name]).parameters == inspect.signature(PUBLIC[f"a{name}"]).parameters


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_is_documented_wherever_it_stands(name):
    assert PUBLIC[name].__doc__


def test_the_options_of_a_session_are_shown_with_its_own_defaults():
    assert inspect.signature(LLM.session).parameters["heal"].default is False
    assert inspect.signature(LLM.generate).parameters["heal"].default is True
    assert "n" not in inspect.signature(LLM.session).parameters
    assert inspect.signature(LLM.generate).parameters["n"].default == 1
