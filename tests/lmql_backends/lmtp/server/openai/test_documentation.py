"""docs/openai-server.md names every field that is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmql_backends.lmtp.server.openai.fields import ChatBody, CompletionBody

TEXT = (Path(__file__).parents[5] / "docs" / "openai-server.md").read_text("utf-8")


@pytest.mark.parametrize("kind", [CompletionBody, ChatBody], ids=lambda kind: kind.__name__)
def test_every_field_is_in_the_documentation(kind):
    missing = [name for name in kind.__struct_fields__ if f"`{name}`" not in TEXT]
    assert not missing


def test_the_example_runs(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("openai")
    code = TEXT.split("```python\n")[1].split("```")[0]
    exec(compile(code, "openai-server.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip() == "7"
