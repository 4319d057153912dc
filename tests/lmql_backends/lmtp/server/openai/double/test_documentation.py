"""docs/openai-double.md names every knob and every fault, and its examples run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmql_backends.lmtp.server.openai.double import PRESETS, OpenAILimits, RateLimits, limits_from, plan_from
from lmql_backends.lmtp.server.openai.double.limits import GRAMMARS
from lmql_backends.lmtp.server.openai.double.plan import KINDS
from lmql_backends.lmtp.server.openai.double.reading import rates_from

TEXT = (Path(__file__).parents[6] / "docs" / "openai-double.md").read_text("utf-8")


def examples(language: str) -> list[str]:
    return [part.split("```")[0] for part in TEXT.split(f"```{language}\n")[1:]]


def test_every_knob_and_fault_is_in_the_documentation():
    options = {name for kind in KINDS.values() for name in kind.__struct_fields__}
    knobs = {*OpenAILimits.__struct_fields__, *RateLimits.__struct_fields__}
    names = {*knobs, *GRAMMARS, *PRESETS, *KINDS, *options}
    assert not [name for name in sorted(names) if f"`{name}`" not in TEXT]


def test_the_table_of_knobs_has_openais_values():
    rows = [line.split("|")[1:3] for line in TEXT.splitlines() if line.startswith("| `")]
    table = {name.strip().strip("`"): value.strip() for name, value in rows}
    for name in OpenAILimits.__struct_fields__:
        if name != "grammars":
            value = getattr(OpenAILimits(), name)
            shown = value if isinstance(value, str) else json.dumps(value).removesuffix(".0")
            assert table[name] == shown, name


def test_the_example_runs(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("openai")
    (code,) = examples("python")
    exec(compile(code, "openai-double.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == [" 7 [503, 200]", "unknown_parameter"]


def test_the_files_are_read():
    limits, plan = map(json.loads, examples("json"))
    assert rates_from(limits.pop("rates")).tokens_per_minute == 9000
    assert limits_from(limits).grammar("regex") == "ignored"
    assert len(plan_from(plan).faults) == 5
