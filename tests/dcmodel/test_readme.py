"""The README and the documents: their examples run, and print what they say."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from itertools import takewhile
from pathlib import Path

import pytest

from dcmodel import env
from dcmodel.registry import Registry, installed_entry_points

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = FENCE.findall(README)
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def run_code(source: str, name: str = "example") -> str:
    """What a piece of code prints, run as a program of its own but in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def test_there_are_five_examples_and_more():
    assert len(EXAMPLES) >= 5
    for needle in ("regex=", "BaseModel", "choose(", "grammar=", "mask="):
        assert any(needle in example for example in EXAMPLES)


def said(example: str) -> list[str]:
    """What the comments behind its prints say."""
    lines = [line.strip() for line in example.splitlines()]
    return [line.split("  # ", 1)[1] for line in lines if line.startswith("print(") and "  # " in line]


@pytest.mark.parametrize(
    "example", EXAMPLES[:6], ids=["regex", "json_schema", "choice", "grammar", "mask", "rules"]
)
def test_an_example_prints_what_its_comments_say(example):
    assert said(example)
    assert [line.strip() for line in run_code(example).splitlines()] == said(example)


@pytest.mark.parametrize("example", EXAMPLES[6:])
def test_further_examples_run(example):
    assert run_code(example)


@pytest.mark.parametrize("document", DOCUMENTS[2:], ids=lambda path: path.name)
def test_the_examples_of_a_document_run(document):
    if document.name == "lmql.md":
        pytest.skip("tests/lmql_backends/lmql runs them, in surroundings that bear LMQL's warnings")
    if document.name == "llamacpp.md":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    for example in re.findall(
        r"^```python\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        printed = [line.strip() for line in run_code(example).splitlines()]
        assert not said(example) or printed == said(example)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_of_the_examples_runs(script):
    assert run_code(script.read_text("utf-8"), str(script))


def test_there_are_example_scripts():
    assert len(SCRIPTS) >= 3


def test_the_table_of_backends_has_a_row_for_each():
    (table,) = re.findall(r"## Backends and guarantees\n\| backend .*\n\|---.*\n((?:\|.*\n)+)", README)
    assert set(Registry().names()) <= {line.strip("| ").split(" |")[0] for line in table.splitlines()}


def test_the_documents_name_every_variable_of_the_environment():
    text = (ROOT / "docs" / "backends.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(DCMODEL_\w+)`", text, re.MULTILINE)) == set(env.NAMES)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


def test_the_commands_of_the_readme_are_commands(capsys):
    from dcmodel.cli import COMMAND_GROUP, COMMANDS, build_parser

    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^(?:.*\| )?dcmodel (\w+)", blocks, re.MULTILINE))
    assert named
    more = {entry.name for entry in installed_entry_points(COMMAND_GROUP)}
    assert named <= {module.__name__.rpartition(".")[2] for module in COMMANDS} | more
    for command in named:
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0


def commands_of(document: Path) -> list[list[str]]:
    """The arguments of each `dcmodel` line in its shell blocks, up to a pipe or a redirection."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.match(r"(?:.*\| |[A-Z_]+=\S+ )?dcmodel (.*)", line) for line in lines]
    commands = [shlex.split(match[1], comments=True) for match in found if match]
    ends = ("|", ">", "&", "&&", "<", ";")
    return [list(takewhile(lambda word: word not in ends, command)) for command in commands]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_have_the_options_that_it_shows(document):
    from dcmodel.cli import build_parser

    for command in commands_of(document):
        build_parser().parse_args(command)  # exits where it does not know an option


def test_the_makefile_has_the_targets_that_are_promised():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "tiny", "help"} <= targets
    runner = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make check" in runner
    assert "make test" in runner
