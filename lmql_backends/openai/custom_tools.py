"""OpenAI's custom tools as grammars: the answer is the input of the one tool that must be called. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmql_backends.openai.capabilities import GrammarSupport

NAME = "answer"
PREFIX = "custom_tool."
"""Of a `GrammarSupport.field`; ``lark`` or ``regex`` follows."""


def is_tool(known: GrammarSupport | None) -> bool:
    """Whether a kind of grammar goes by a custom tool.

    The tool is described to the model, which then does not read the very prompt that was meant.
    """
    return known is not None and known.field.startswith(PREFIX)


def tool_fields(syntax: str, definition: str) -> dict[str, Any]:
    """The fields of a chat's body. `syntax`: ``lark`` or ``regex``."""
    grammar = {"syntax": syntax, "definition": definition}
    custom = {
        "name": NAME,
        "description": "Takes the answer, which has to be of this form.",
        "format": {"type": "grammar", "grammar": grammar},
    }
    return {
        "tools": [{"type": "custom", "custom": custom}],
        "tool_choice": {"type": "custom", "custom": {"name": NAME}},
        "parallel_tool_calls": False,
    }


def tool_input(message: Mapping[str, Any]) -> str:
    """What a message gives to its first custom tool; empty where it calls none."""
    for call in message.get("tool_calls") or ():
        custom = call.get("custom") if isinstance(call, dict) else None
        if isinstance(custom, dict) and isinstance(custom.get("input"), str):
            return str(custom["input"])
    return ""
