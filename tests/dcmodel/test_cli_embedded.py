"""The commands as a new user types them, on the embedded model."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from dcmodel.cli import main

SCHEMA = (
    '{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},'
    ' "required": ["name", "age"], "additionalProperties": false}'
)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def dcmodel(*arguments, stdin=""):
    """Run a command in this process: importing torch anew for each would take minutes in all."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.stdin", io.StringIO(stdin))
        patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # so that it does not stay in this process
        patch.setenv("HF_HUB_OFFLINE", "1")
        code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def result(*arguments, **options):
    done = dcmodel(*arguments, "--json", **options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_program_of_its_own_prints_the_answer_and_nothing_else():
    command = [sys.executable, "-m", "dcmodel", "generate", "3 + 4 =", "--regex", " [0-9]{1,2}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().isdigit()


def test_a_json_schema_from_standard_input_with_everything_in_json():
    prompt = "Text: Mira is 34 and lives in Velden.\nFields: name, age\nJSON:\n"
    completion = result("generate", "-", "--json-schema", SCHEMA, "--top-logprobs", "2", stdin=prompt)
    assert set(json.loads(completion["text"])) == {"name", "age"}
    assert completion["parsed"] == json.loads(completion["text"])
    assert completion["certificate"]["valid"] is True
    assert completion["finish_reason"] == "stop"
    assert len(completion["logprobs"]) == len(completion["token_ids"])
    assert len(completion["logprobs"][0]["top_raw"]) == 2
    assert completion["usage"]["forced_tokens"] == sum(completion["forced"]) > 0


def test_a_choice_and_a_grammar(tmp_path):
    assert result("generate", "3 + 4 =", "--choice", " red", "--choice", " green")["text"] in (
        " red",
        " green",
    )
    grammar = tmp_path / "pair.lark"
    grammar.write_text('start: " (" NUMBER "," NUMBER ")"\nNUMBER: /[0-9]{1,2}/\n')
    completion = result("generate", "3 + 4 =", "--grammar", str(grammar))
    assert completion["text"].startswith(" (")
    assert completion["certificate"]["valid"] is True


def test_a_seed_gives_the_same_text_again():
    arguments = ("generate", "Once upon a time", "--temperature", "1", "--seed", "7", "--max-tokens", "12")
    assert result(*arguments)["token_ids"] == result(*arguments)["token_ids"]


def test_a_stop_string_and_a_limit():
    completion = result("generate", "Once upon a time", "--stop", ".", "--max-tokens", "60")
    assert "." not in completion["text"]
    cut = result("generate", "Once upon a time", "--max-tokens", "3", "--no-heal")
    assert (cut["finish_reason"], len(cut["token_ids"])) == ("length", 3)


def test_score_and_choose():
    scores = result("score", "3 + 4 =", " 7", " 70", " Paris")["results"]
    assert [item["text"] for item in scores] == [" 7", " 70", " Paris"]
    assert scores[0]["logprob"] > scores[2]["logprob"]
    choice = result("choose", "3 + 4 =", " 7", " Paris")
    assert choice["text"] == " 7"
    assert sum(item["probability"] for item in choice["results"]) == pytest.approx(1.0)


def test_score_and_choose_by_other_measures():
    scores = result("score", "3 + 4 =", " 7", " 8", "--unconditional", "=")["results"]
    assert scores[0]["pmi"] > 0 > scores[1]["pmi"]
    nested = result("choose", "3 + 4 =", " 7", " 70")
    assert nested["ended"] is True
    assert nested["text"] == " 7"
    header = dcmodel("choose", "3 + 4 =", " 7", " 70").stdout.splitlines()[0]
    assert header.split() == ["probability", "logprob", "end", "text"]
    assert "end" not in dcmodel("choose", "3 + 4 =", " 7", " 8").stdout.splitlines()[0]


def test_score_of_a_whole_file(tmp_path):
    text = tmp_path / "sums.txt"
    text.write_text("3 + 4 = 7\n2 + 2 = 4\n")
    (whole,) = result("score", "--rolling", str(text), "--window", "16")["results"]
    assert 0 < whole["bits_per_byte"] < 8
    assert whole["logprob"] == pytest.approx(sum(whole["logprobs"]))


def test_beams_and_exact_sampling():
    beams = result("generate", "3 + 4 =", "--regex", " [0-9]+", "--beams", "4", "--n", "3")
    assert beams["text"] == " 7"
    scores = [beams["score"], *(item["score"] for item in beams["alternatives"])]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    exactly = ("generate", "3 + 4 =", "--regex", " [0-9]{1,2}", "--sampling", "exact", "--seed", "1")
    drawn = result(*exactly)
    assert drawn["certificate"]["semantics"] == "global"
    assert "rejection" in drawn["certificate"]["detail"]
    exact = result(*exactly, "--particles", "32")
    assert exact["certificate"]["semantics"] == "global"
    assert "32 particles" in exact["certificate"]["detail"]
    weights = [exact["weight"], *(item["weight"] for item in exact.get("alternatives", []))]
    assert sum(weights) == pytest.approx(1.0)
    assert exact["log_z"] < 0


def test_a_file_of_prompts(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{number} + 1 =\n" for number in range(8)))
    done = dcmodel("generate", "--file", str(prompts), "--regex", " [0-9]{1,2}")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == [f"{number} + 1 =" for number in range(8)]


def test_tokenize():
    tokens = result("tokenize", "Mira is 34.")
    assert "".join(tokens["tokens"]) == "Mira is 34."


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("generate", ""), "the prompt is empty"),
        (("generate", "a", "--regex", "a(b"), "position"),
        (("generate", "a", "--json-schema", '{"type": "integer",}'), "JSON schema"),
        (("generate", "a", "--temperature", "-1"), "temperature is -1.0"),
        (("generate", "a " * 4000), "tokens"),
        (("generate", "a", "--backend", "nope"), "there is no backend 'nope' (registered: "),
        (("generate", "a", "--model", "./no/such/model"), "no/such/model"),
        (("score", "a", ""), "'' cannot be scored"),
        (("choose", "a", "b", "b"), "given 2 times"),
    ],
)
def test_what_cannot_work_is_one_error_line_and_perhaps_a_caret(arguments, part):
    done = dcmodel(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    first, *block = done.stderr.splitlines()
    assert part in first
    assert not block or (len(block) == 2 and block[1].strip() == "^")


def test_the_demo_shows_its_four_stops():
    done = dcmodel("demo")
    assert (done.returncode, done.stderr) == (0, "")
    for heading in ("1. JSON for a schema", "2. Text that matches a regex", "3. A choice", "4. Scores"):
        assert heading in done.stdout
    shown = result("demo")
    assert set(shown["extraction"]["parsed"]) == {"name", "job", "city"}


def test_the_doctor_finds_this_installation_well():
    checks = result("doctor")
    assert checks["ok"] is True
    assert checks["checks"][-1]["name"] == "embedded model"


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_an_interrupt_ends_with_130():
    command = [
        sys.executable,
        "-m",
        "dcmodel",
        "generate",
        "Once",
        "--regex",
        "(a|b)*",
        "--max-tokens",
        "2000",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.read(1)  # the text has begun
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode in (130, 0), err
    assert err in ("", "Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes work otherwise there")
def test_a_reader_that_leaves_early_causes_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m dcmodel generate 'Once upon a time' --max-tokens 60 | head -c 3",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
