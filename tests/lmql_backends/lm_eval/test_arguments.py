"""What is given by name: model arguments, generation options, the registration itself."""

from __future__ import annotations

import sys

import pytest
from lm_eval.api.registry import get_model, model_registry

from dcmodel.errors import CapabilityError, ContextLengthError, InvalidRequestError, MissingDependencyError
from lmql_backends.lm_eval import register
from lmql_backends.lm_eval.__main__ import main
from lmql_backends.lm_eval.generation import generation_options
from lmql_backends.lm_eval.scoring import fitted


def options(**kwargs):
    return generation_options(kwargs, max_gen_toks=256, eos_text="<|eos|>", seed=3)


def test_registering_keeps_the_models_of_lm_eval():
    register()
    register()
    assert "hf" in model_registry
    assert get_model("dcmodel").__name__ == "DcModelLM"


def test_unknown_arguments_are_named():
    register()
    with pytest.raises(InvalidRequestError, match="no 'parallelize' and no 'peft'") as caught:
        get_model("dcmodel").create_from_arg_string("model=x,peft=a,parallelize=True", {"batch_size": 1})
    assert "max_length" in str(caught.value)


def test_arguments_that_cannot_be():
    register()
    create = get_model("dcmodel").create_from_arg_string
    with pytest.raises(InvalidRequestError, match="both model=a and pretrained=b"):
        create("model=a,pretrained=b")
    with pytest.raises(InvalidRequestError, match="runs no code"):
        create("model=a,trust_remote_code=True")
    with pytest.raises(InvalidRequestError, match="max_in_flight"):
        create("model=a,max_in_flight=0")


def test_arguments_that_do_not_fit_the_model(checkpoints, open_ours):
    path = checkpoints["random"]
    with pytest.raises(ContextLengthError, match="max_length is 513"):
        open_ours(path, max_length=513)
    with pytest.raises(InvalidRequestError, match="prefix_token_id is 384"):
        open_ours(path, prefix_token_id=384)
    assert open_ours(path, prefix_token_id=70).prefix_token_id == 70


def test_the_model_argument_goes_before_the_options_of_the_command(checkpoints):
    register()
    create = get_model("dcmodel").create_from_arg_string
    model = create(f"pretrained={checkpoints['random']},device=cpu,dtype=auto", {"device": "cuda:7"})
    assert model.get_model_info()["model_device"] == "cpu"
    assert model.get_model_info()["model_dtype"] == "float32"
    model.close()


def test_chat_templates_are_refused(checkpoints, open_ours):
    with pytest.raises(CapabilityError, match="no chat templates"):
        open_ours(checkpoints["random"]).apply_chat_template([{"role": "user", "content": "Hi"}])


def test_generation_is_greedy_unless_there_is_a_temperature():
    assert options().sampling.temperature == 0.0
    assert options(temperature=0.7).sampling.temperature == 0.7
    assert options(do_sample=False, temperature=0.7, top_k=5).sampling.temperature == 0.0
    sampled = options(do_sample=True, temperature=0.7, top_p=0.9, top_k=5, min_p=0.1).sampling
    assert (sampled.top_p, sampled.top_k, sampled.min_p, sampled.seed) == (0.9, 5, 0.1, 3)


def test_stops_and_lengths_by_lm_evals_names():
    assert options(until="a").until == ("a", "<|eos|>")
    assert options(until=["a", "", "b"]).until == ("a", "b", "<|eos|>")
    assert options().max_gen_toks == 256
    assert options(max_new_tokens=5).max_gen_toks == 5
    assert options(max_gen_toks=4, max_new_tokens=5).max_gen_toks == 4


def test_the_tasks_options_are_left_alone():
    given = {"until": ["a"]}
    generation_options(given, max_gen_toks=1, eos_text="b", seed=None)
    assert given == {"until": ["a"]}


def test_generation_options_without_a_meaning_here_are_refused():
    with pytest.raises(InvalidRequestError, match="knows no 'typical_p'"):
        options(typical_p=0.5)
    with pytest.raises(InvalidRequestError, match="num_beams can only be 1"):
        options(num_beams=4)
    assert options(num_beams=1, num_return_sequences=1).sampling.temperature == 0.0


def test_what_fits_is_left_alone_and_the_last_token_needs_no_room():
    assert fitted([1, 2, 3], [4, 5], 4) == ([1, 2, 3], [4, 5])
    assert fitted([1, 2, 3], [4, 5], 3) == ([2, 3], [4, 5])
    assert fitted([1, 2, 3], [4, 5], 2) == ([3], [4, 5])
    with pytest.raises(ContextLengthError):
        fitted([1, 2, 3], [4, 5], 1)


def test_the_command_ends_with_one_line_for_our_own_errors(monkeypatch):
    def refuse() -> None:
        raise InvalidRequestError("no such thing.", remedy="Do otherwise.")

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", refuse)
    with pytest.raises(SystemExit, match=r"Error: no such thing\. Do otherwise\."):
        main()


def test_without_lm_eval_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"dcmodel\[lm-eval\]\""):
        register()
