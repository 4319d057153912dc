"""Ways to ask for a form of the text: each is honoured, refused or ignored by itself."""

from __future__ import annotations

from typing import Any

from lmql_backends.lmtp.server.openai.double.limits import GRAMMARS, OpenAILimits
from lmql_backends.lmtp.server.openai.double.refusals import RefusalError, missing, unknown, unsupported
from lmql_backends.lmtp.server.openai.double.strict_schemas import check_strict
from lmql_backends.lmtp.server.openai.double.wishes import Json, Wish

FORM_FIELDS = frozenset(
    ("response_format", "structured_outputs", *(name for name in GRAMMARS[7:] if "." not in name))
)
FORMATS = ("json_object", "json_schema")


def admit_forms(wish: Wish, limits: OpenAILimits) -> None:
    """Drop what is ignored. Raises `RefusalError` for what is refused."""
    inner = wish.inner
    for name in FORM_FIELDS - {"response_format", "structured_outputs"}:
        if name in inner and not _holds(name, limits):
            del inner[name]
    form = inner.get("response_format")
    if form is not None and not wish.is_chat and limits.extra_fields == "refused":
        raise unknown("response_format")  # of OpenAI's two routes only one has it
    if isinstance(form, dict) and form.get("type") in FORMATS:
        if not _holds_format(form, limits):
            del inner["response_format"]
        elif form["type"] == "json_object" and limits.strict_schemas:
            _check_word(inner)
    asked = inner.get("structured_outputs")
    if isinstance(asked, dict) and asked:
        kept = {name: value for name, value in asked.items() if _holds(f"structured_outputs.{name}", limits)}
        if kept:
            inner["structured_outputs"] = kept
        else:
            del inner["structured_outputs"]


def admit_tools(wish: Wish, limits: OpenAILimits) -> None:
    """OpenAI's custom tools: a tool that must be called, and takes a text of a grammar."""
    tool = _forced_tool(wish.inner)
    if tool is None:
        return
    name, form = tool.get("name"), tool.get("format")
    if not isinstance(name, str) or not name:
        raise missing("tools[0].custom.name")
    grammar: Json = {}
    if isinstance(form, dict) and form.get("type") == "grammar" and isinstance(form.get("grammar"), dict):
        grammar = form["grammar"]
    syntax, definition = grammar.get("syntax"), grammar.get("definition")
    if grammar and (syntax not in ("lark", "regex") or not isinstance(definition, str)):
        raise RefusalError(
            f"Invalid value: {syntax!r:.40}. Supported values are: 'lark' and 'regex'.",
            param="tools[0].custom.format.grammar.syntax",
            code="invalid_value",
        )
    if grammar and _holds(f"custom_tool.{syntax}", limits, param="tools"):
        wish.inner["grammar" if syntax == "lark" else "regex"] = definition
    wish.tool = name
    for field in ("tools", "tool_choice", "parallel_tool_calls"):
        wish.inner.pop(field, None)


def _forced_tool(inner: Json) -> Json | None:
    """The custom tool that must be called, if the body says so."""
    tools, choice = inner.get("tools"), inner.get("tool_choice")
    if not isinstance(tools, list) or len(tools) != 1 or not isinstance(tools[0], dict):
        return None
    custom = tools[0].get("custom")
    if tools[0].get("type") != "custom" or not isinstance(custom, dict):
        return None
    is_forced = choice == "required" or (isinstance(choice, dict) and choice.get("type") == "custom")
    return custom if is_forced else None


def _holds_format(form: Json, limits: OpenAILimits) -> bool:
    if not _holds(form["type"], limits, param="response_format"):
        return False
    described: Any = form.get("json_schema")
    if form["type"] == "json_object" or not limits.strict_schemas or not isinstance(described, dict):
        return True
    if described.get("strict") is not True:
        return False  # the model may follow it, or not
    check_strict(str(described.get("name")), described.get("schema"))
    return True


def _check_word(inner: Json) -> None:
    """OpenAI's rule: otherwise a model would write spaces without end."""
    if "json" not in str(inner.get("messages")).lower():
        raise RefusalError(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
            "'json_object'.",
            param="messages",
        )


def _holds(name: str, limits: OpenAILimits, *, param: str = "") -> bool:
    """Whether the text will have the form. Raises `RefusalError`."""
    support = limits.grammar(name)
    if support == "refused":
        raise unsupported(param) if param else unknown(name.partition(".")[0])
    return support == "honoured"
