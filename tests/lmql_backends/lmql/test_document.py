"""The examples of docs/lmql.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]
DOCUMENT = Path(__file__).parents[3] / "docs" / "lmql.md"


def test_the_examples_run(lmql, endpoint, capsys):
    from lmql_backends.tiny import MODEL_DIR

    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(example.replace("127.0.0.1:8080", endpoint).replace("path/to/model", str(MODEL_DIR)), {})
    printed = capsys.readouterr().out
    assert "The capital is" in printed
    assert re.search(r"Answer: (yes|no)", printed)
