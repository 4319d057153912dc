"""The commands, over a scripted model; tests/dcmodel/test_cli_embedded.py runs them on the real one."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import pytest
from fakes.scripted_model import ScriptedModel

from dcmodel import __version__
from dcmodel.cli import COMMANDS, build_parser, main
from dcmodel.cli.output import Output
from dcmodel.errors import NonFiniteLogitsError, SetupError
from dcmodel.registry import Registry


@pytest.fixture
def loads(monkeypatch):
    """Every command gets a scripted model; what it asked for is kept."""
    asked = []

    def load(self, model, options, *, explicit=None, settings=None):
        asked.append((model, options, explicit))
        loaded = ScriptedModel()
        asked.append(loaded)
        return loaded

    monkeypatch.setattr(Registry, "load", load)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # what the commands set for themselves
    return asked


@pytest.fixture
def dcmodel(loads, capsys):
    """Run a command; gives exit code, standard output and standard error."""

    def run(*argv):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_help_names_every_command_and_imports_nothing_heavy():
    program = (
        "import sys; from dcmodel.cli import build_parser; build_parser().format_help();"
        "heavy = {'numpy', 'torch', 'transformers', 'llguidance', 'lark', 'asyncio', 'dcmodel.llm'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = build_parser().format_help()
    assert len(COMMANDS) == 8
    for name in ("generate", "score", "choose", "explain", "tokenize", "backends", "doctor", "demo"):
        assert name in shown


def test_the_version_is_shown(dcmodel):
    assert dcmodel("--version") == (0, f"dcmodel {__version__}\n", "")


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("nonsense",),
        ("generate",),
        ("generate", "abc", "--file", "x"),
        ("explain", "abc"),
        ("generate", "abc", "--max-tokens", "many"),
        ("score", "abc"),
        ("choose", "abc", "a", "--normalizer", "max"),
    ],
)
def test_wrong_usage_exits_with_2_and_an_explanation(dcmodel, argv):
    code, out, err = dcmodel(*argv)
    assert (code, out) == (2, "")
    assert "usage: dcmodel" in err


def test_generate_prints_the_text_as_it_comes(dcmodel):
    assert dcmodel("generate", "abc def") == (0, "ABC DEF\n", "")


def test_generate_with_json_prints_one_object(dcmodel):
    code, out, err = dcmodel("generate", "abc", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    result = json.loads(out)
    assert result["text"] == "ABC"
    assert set(result) >= {"text", "token_ids", "finish_reason", "logprobs", "usage", "certificate"}
    assert [item["token_id"] for item in result["logprobs"]] == result["token_ids"]
    assert set(result["logprobs"][0]) >= {"raw_logprob", "masked_logprob", "log_mass"}
    assert result["usage"]["completion_tokens"] == len(result["token_ids"])


def test_generate_passes_its_options_on(dcmodel, loads):
    code, _, err = dcmodel(
        *("generate", "abc", "--max-tokens", "5", "--temperature", "0.5", "--seed", "3", "--top-k", "2"),
        *("--top-p", "0.5", "--min-p", "0.1", "--stop", "x", "--stop", "y", "--top-logprobs", "4"),
        *("--model", "m", "--backend", "b", "--device", "cuda:1", "--dtype", "float16", "--max-context", "9"),
    )
    assert (code, err) == (0, "")
    (model, options, backend), scripted = loads
    assert (model, backend) == ("m", "b")
    assert (options.device, options.dtype, options.max_context) == ("cuda:1", "float16", 9)
    request = scripted.requests[0]
    assert (request.max_tokens, request.stop, request.top_logprobs) == (5, ("x", "y"), 4)
    assert (request.sampling.temperature, request.sampling.seed, request.sampling.top_k) == (0.5, 3, 2)
    assert scripted.closed


def test_a_dash_reads_the_prompt_from_standard_input_less_its_last_newline(dcmodel, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("abc\ndef\n"))
    assert dcmodel("generate", "-") == (0, "ABC\nDEF\n", "")


def test_constraints_come_from_arguments_and_files(dcmodel, loads, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    grammar = tmp_path / "digits.lark"
    grammar.write_text("start: /[0-9]+/\n")
    for arguments, kind in [
        (("--regex", "[0-9]+"), "regex"),
        (("--json-schema", str(schema)), "json_schema"),
        (("--json-schema", '{"type": "integer"}'), "json_schema"),
        (("--grammar", str(grammar)), "grammar"),
        (("--choice", "a", "--choice", "b"), "choice"),
    ]:
        code, _, err = dcmodel("generate", "abc", "--json", *arguments)
        assert (code, err) == (0, "")
        assert loads[-1].requests[0].constraint.kind == kind


@pytest.mark.parametrize("option", ["--json-schema", "--grammar", "--file"])
def test_a_file_that_is_not_there_is_one_error_line(dcmodel, option):
    prompt = () if option == "--file" else ("abc",)
    code, out, err = dcmodel("generate", *prompt, option, "no/such/file")
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: {option} 'no/such/file' cannot be read: No such file")
    assert err.count("\n") == 1


def test_a_file_of_prompts_gives_json_lines(dcmodel, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\ntwo\n")
    code, out, _ = dcmodel("generate", "--file", str(prompts))
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(line["prompt"], line["text"]) for line in lines] == [("one", "ONE"), ("two", "TWO")]


def test_a_failing_prompt_among_many_has_a_line_of_its_own(dcmodel, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\nfail\n")
    code, out, err = dcmodel("generate", "--file", str(prompts))
    assert code == 1
    assert "it failed" in json.loads(out.splitlines()[1])["error"]
    assert err.startswith("Error: 1 of 2 prompts failed")


def test_score_prints_a_table_or_json(dcmodel):
    code, out, err = dcmodel("score", "abc", "xx", "y")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["logprob", "probability", "text"]
    assert out.splitlines()[1].split() == ["-2.0000", "0.1353", "'xx'"]
    code, out, err = dcmodel("score", "abc", "xx", "y", "--json")
    results = json.loads(out)["results"]
    assert [(item["text"], item["logprob"]) for item in results] == [("xx", -2.0), ("y", -1.0)]
    assert set(results[0]) >= {"text", "logprob", "probability"}


def test_choose_prints_the_likeliest_first_and_json_in_the_order_given(dcmodel):
    code, out, err = dcmodel("choose", "abc", "xx", "y")
    assert (code, err) == (0, "")
    assert [line.split()[-1] for line in out.splitlines()] == ["text", "'y'", "'xx'"]
    result = json.loads(dcmodel("choose", "abc", "xx", "y", "--json")[1])
    assert result["text"] == "y"
    assert [item["text"] for item in result["results"]] == ["xx", "y"]
    assert sum(item["probability"] for item in result["results"]) == pytest.approx(1.0)


def test_score_by_other_names_and_against_an_unconditional_prompt(dcmodel, loads):
    code, out, err = dcmodel("score", "abc", "xx", "y", "--unconditional", "a")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == ["logprob", "pmi", "probability", "text"]
    assert out.splitlines()[1].split() == ["-2.0000", "0.0000", "0.1353", "'xx'"]
    assert loads[-1].scored[0].prompt_ids != loads[-1].scored[1].prompt_ids
    first = json.loads(dcmodel("score", "abc", "--json", "xx", "y", "--top-logprobs", "2")[1])["results"][0]
    assert (first["mean_logprob"], first["byte_logprob"], first["pmi"]) == (-1.0, -1.0, None)
    assert set(first) >= {"ranks", "top_logprobs", "is_greedy", "token_ids"}
    assert loads[-1].scored[0].top_logprobs == 2


def test_score_takes_token_ids(dcmodel, loads):
    code, _, err = dcmodel("score", "abc", "50,51", "52", "--token-ids")
    assert (code, err) == (0, "")
    assert loads[-1].scored[0].continuations == ((50, 51), (52,))
    code, out, err = dcmodel("score", "abc", "5x", "--token-ids")
    assert (code, out) == (1, "")
    assert err.startswith("Error: '5x' is no list of token ids. Write them like 12,345")


def test_score_takes_whole_files(dcmodel, tmp_path):
    texts = {"one.txt": "yes no maybe", "two.txt": "answer"}
    paths = [str(tmp_path / name) for name in texts]
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    code, out, err = dcmodel("score", "--rolling", *paths, "--window", "3", "--overlap", "2")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split()[:3] == ["logprob", "bits/byte", "perplexity"]
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["-12.0000", "-6.0000"]
    results = json.loads(dcmodel("score", "--rolling", *paths, "--json")[1])["results"]
    assert [item["file"] for item in results] == paths
    assert [item["byte_logprob"] for item in results] == [-1.0, -1.0]
    assert results[0]["bits_per_byte"] == pytest.approx(1 / math.log(2))
    assert len(results[0]["logprobs"]) == len(results[0]["token_ids"])


@pytest.mark.parametrize(
    "argv",
    [
        ("score",),
        ("score", "abc", "x", "--rolling", "f"),
        ("score", "--rolling", "f", "--unconditional", "a"),
        ("score", "--rolling", "f", "--token-ids"),
        ("score", "abc", "x", "--window", "5"),
        ("choose", "abc", "a", "--end-of-text", "perhaps"),
        ("generate", "abc", "--sampling", "nucleus"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(dcmodel, argv):
    code, out, err = dcmodel(*argv)
    assert (code, out) == (2, "")
    assert "usage: dcmodel" in err


def test_choose_says_whether_ends_counted(dcmodel, loads):
    def choose(*arguments):
        code, out, err = dcmodel("choose", "abc", *arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    assert choose("x", "y")["ended"] is False
    assert choose("x", "y", "--end-of-text", "yes")["ended"] is True
    assert choose("q", "qq")["ended"] is True
    assert choose("q", "qq", "--end-of-text", "no")["ended"] is False
    result = choose("x", "yy", "--normalizer", "pmi", "--unconditional", "a")
    assert [item["pmi"] for item in result["results"]] == [0.0, 0.0]
    assert [item["probability"] for item in result["results"]] == [0.5, 0.5]
    assert choose("x", "yy", "--normalizer", "byte")["results"][1]["probability"] == 0.5


def test_pmi_without_its_prompt_is_one_error_line(dcmodel):
    code, out, err = dcmodel("choose", "abc", "a", "b", "--normalizer", "pmi")
    assert (code, out) == (1, "")
    assert err.startswith("Error: normalizer is 'pmi' and there is no unconditional prompt")
    assert err.count("\n") == 1


def test_generate_prints_all_texts_the_best_first(dcmodel, loads):
    code, out, err = dcmodel("generate", "abc", "--n", "3", "--temperature", "1", "--seed", "5")
    assert (code, err, out) == (0, "", "ABC\nABC\nABC\n")
    assert loads[-1].requests[0].sampling.seed == 5
    result = json.loads(
        dcmodel("generate", "abc", "--best-of", "4", "--n", "2", "--temperature", "1", "--json")[1]
    )
    assert result["score"] == -0.5  # of four texts that are the same
    assert "alternatives" not in result


def test_options_that_do_not_go_together_are_one_error_line(dcmodel):
    for options, part in [
        (("--n", "2"), "n is 2 and temperature is 0"),
        (("--beams", "2", "--temperature", "1"), "temperature is 1.0 and beams is 2"),
        (("--sampling", "exact", "--temperature", "0"), "temperature is 0"),
        (("--particles", "9"), "particles is 9"),
    ]:
        code, out, err = dcmodel("generate", "abc", *options)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert part in err


def test_tokenize_shows_ids_and_bytes(dcmodel):
    code, out, _ = dcmodel("tokenize", "yes é")
    assert code == 0
    assert out.splitlines()[0].split() == ["id", "bytes"]
    result = json.loads(dcmodel("tokenize", "yes é", "--json")[1])
    assert result["count"] == len(result["token_ids"]) == len(result["tokens"])


def test_backends_shows_states_guarantees_and_the_choice(dcmodel):
    code, out, _ = dcmodel("backends")
    assert code == 0
    assert "transformers" in out
    assert "embedded would run on transformers" in out
    result = json.loads(dcmodel("backends", "--json", "--model", "org/model")[1])
    assert (result["model"], result["chosen"]) == ("org/model", "transformers")
    assert result["reasons"]
    assert {item["name"] for item in result["backends"]} == set(Registry().names())


def test_an_error_is_one_line_and_exit_code_1(dcmodel):
    code, out, err = dcmodel("generate", "abc", "--temperature", "-1")
    assert (code, out) == (1, "")
    assert err.startswith("Error: temperature is -1.0; it must be")
    assert err.count("\n") == 1


def test_a_set_up_error_without_a_remedy_names_the_doctor(dcmodel, monkeypatch):
    def load(self, *_, **__):
        raise SetupError("something\nis wrong.")

    monkeypatch.setattr(Registry, "load", load)
    assert dcmodel("generate", "abc") == (
        1,
        "",
        "Error: something is wrong. Run `dcmodel doctor`.\n",
    )


def test_a_bad_setting_is_one_error_line(dcmodel, monkeypatch):
    monkeypatch.setenv("DCMODEL_DTYPE", "float7")
    for argv in (("generate", "abc"), ("backends",)):
        code, _, err = dcmodel(*argv)
        assert code == 1
        assert err.startswith("Error: DCMODEL_DTYPE is 'float7'")


def test_an_interrupt_exits_with_130(dcmodel, monkeypatch):
    def load(self, *_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "load", load)
    code, _, err = dcmodel("score", "abc", "d")
    assert (code, err) == (130, "Interrupted.\n")


def test_a_failure_in_the_middle_of_a_stream_keeps_the_error_on_its_own_line(dcmodel):
    code, out, err = dcmodel("generate", "fail now")
    assert code == 1
    assert out.endswith("\n")
    assert err.startswith("Error: it failed")


def test_infinities_never_reach_json(capsys):
    Output.standard().json({"a": float("-inf"), "b": [float("nan"), 1.5], "c": {"d": float("inf")}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_a_generation_error_is_one_line(dcmodel, monkeypatch):
    async def score(self, request):
        raise NonFiniteLogitsError("the model gave NaN.", remedy="Check the checkpoint.")

    monkeypatch.setattr(ScriptedModel, "score", score)
    assert dcmodel("score", "abc", "d") == (1, "", "Error: the model gave NaN. Check the checkpoint.\n")


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "dcmodel", "--version"], check=True, capture_output=True, text=True
    )
    assert done.stdout == f"dcmodel {__version__}\n"


def test_options_of_the_backend_are_passed_on_with_their_types(dcmodel, loads):
    options = ("n_threads=4", "type_k=q8_0", "offload_kqv=false", "revision=main", "lora=a=b.gguf")
    code, _, error = dcmodel("tokenize", "a", *(part for item in options for part in ("--option", item)))
    assert (code, error) == (0, "")
    assert loads[0][1].extra == {
        "n_threads": 4,
        "type_k": "q8_0",
        "offload_kqv": False,
        "revision": "main",
        "lora": "a=b.gguf",
    }


@pytest.mark.parametrize("item", ["n_threads", "=4"])
def test_an_option_without_name_or_value_is_named(dcmodel, item):
    code, _, error = dcmodel("tokenize", "a", "--option", item)
    assert code == 1
    assert item in error
    assert "--option n_threads=4" in error
