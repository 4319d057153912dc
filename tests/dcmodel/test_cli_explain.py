from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dcmodel.cli import main


@pytest.fixture
def explain(capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def run(*arguments):
        code = main(["explain", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_text_is_shown_with_a_caret_and_what_was_expected(explain):
    code, out, err = explain("--regex", "[0-9]{3}-[0-9]{4}", "555-12a4")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[:2] == ["555-12a4", "      ^"]
    assert lines[2] == "The text leaves the constraint at line 1 column 7, with 'a4': expected a digit."
    assert lines[3].endswith("tokens of the vocabulary may come next.")


def test_a_match_exits_with_0(explain):
    code, out, err = explain("--choice", "yes", "--choice", "no", "no")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "The text matches."


def test_json_for_scripts(explain):
    code, out, _ = explain("--json", "--json-schema", '{"type": "integer"}', "12")
    assert code == 0
    assert json.loads(out)["matches"] is True
    code, out, _ = explain("--json", "--json-schema", '{"type": "integer"}', "1x")
    found = json.loads(out)
    assert code == 1
    assert (found["matches"], found["status"], found["position"]) == (False, "refused", 1)
    assert found["allowed_tokens"] > 0
    assert "a digit" in found["expected"]


def test_a_wrong_grammar_is_one_error_line_and_its_place(explain, tmp_path):
    grammar = tmp_path / "wrong.lark"
    grammar.write_text('start: "a" FOO\n')
    code, out, err = explain("--grammar", str(grammar), "a")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith('Error: the grammar is wrong at line 1 column 8: unknown name: "FOO"')
    assert lines[1:] == ['    start: "a" FOO', "           ^"]


def test_without_a_constraint_it_is_a_usage_error(explain, capsys):
    with pytest.raises(SystemExit) as caught:
        explain("text")
    assert caught.value.code == 2
    assert "give a constraint" in capsys.readouterr().err


def test_another_model_is_asked_for_its_tokenizer_only(explain, tmp_path):
    import shutil

    from dcmodel.registry import Registry

    folder = tmp_path / "tokenizer-only"
    folder.mkdir()
    for file in Registry().embedded_path().glob("*token*"):
        shutil.copy(file, folder)
    code, out, _ = explain("--model", str(folder), "--regex", "a+", "aab")
    assert code == 1
    assert out.startswith("aab\n  ^\n")


def test_no_model_is_loaded():
    program = (
        "import sys; from dcmodel.cli import main; main(['explain', '--regex', 'a', 'a']);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
