"""A conversation as token ids, in which special tokens come from the model's chat template alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dcmodel.errors import InvalidRequestError
from dcmodel.llm.chat_template import render
from dcmodel.llm.prompts import parsed_ids
from dctokenizers import Tokenizer

Message = Mapping[str, Any]
"""``{"role": "user", "content": "Hello"}``; what else it may hold is the template's matter."""

# Characters that Unicode gives no meaning to, and never will.
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
DEEPEST = 64


def check_messages(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise `InvalidRequestError` unless these are one conversation, and tools as JSON schemas."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequestError(
            f"the messages are {messages!r:.60}.",
            remedy='Give a list like [{"role": "user", "content": "Hello"}].',
        )
    for message in messages:
        problem = _problem(message)
        if problem:
            raise InvalidRequestError(
                f"the message {message!r:.60} {problem}.",
                remedy='Give messages like {"role": "user", "content": "Hello"}.',
            )
    is_list = tools is None or (isinstance(tools, Sequence) and not isinstance(tools, str))
    if not is_list or not all(isinstance(tool, Mapping) for tool in tools or ()):
        raise InvalidRequestError(
            f"the tools are {tools!r:.60}.", remedy="Give a list of JSON schemas, as dicts."
        )


def chat_ids(
    tokenizer: Tokenizer,
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
    continue_final_message: bool = False,
) -> list[int]:
    """Token ids of the rendered template. Special tokens come from the template alone.

    `continue_final_message`: only up to the end of the last message's text, which goes on. In the caller's
    texts a mark is put into what reads like a special token; where the mark stands in the rendered text, that
    is cut, so that neither part is one.
    """
    data = [_plain(message) for message in messages], [_plain(tool) for tool in tools or ()] or None
    mark = _unused(NONCHARACTERS, (template, *_texts(data)))
    marked_messages, marked_tools = _marked(data, _special_texts(tokenizer), mark)
    end = ""
    if continue_final_message:
        end = _unused(NONCHARACTERS, (mark, template, *_texts(data)))
        add_generation_prompt = False
        _end_with(marked_messages[-1], end)
    variables = {
        "messages": marked_messages,
        "tools": marked_tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": _text_of(tokenizer, tokenizer.bos_token_id),
        "eos_token": _text_of(tokenizer, next(iter(tokenizer.eos_token_ids), None)),
    }
    start, *others = _until(end, render(template, variables)).split(mark)
    token_ids = [*parsed_ids(tokenizer, start, at_start=True)]
    for part in others:
        token_ids += parsed_ids(tokenizer, part)
    if not token_ids:
        raise InvalidRequestError(
            "the chat template makes an empty text of these messages.", remedy="Give a message with a text."
        )
    return token_ids


def _problem(message: object) -> str:
    """What is wrong with a message; empty if nothing is."""
    if not isinstance(message, Mapping):
        return "is no dict"
    if not isinstance(message.get("role"), str):
        return "has no role"
    content = message.get("content")
    if content is None:
        return "" if message.get("tool_calls") else "has no content"
    is_parts = isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content)
    return "" if isinstance(content, str) or is_parts else "has a content that is neither a text nor parts"


def _plain(value: object, depth: int = 0) -> Any:
    """A copy made of plain JSON values: a template is another's code, which objects could serve as tools."""
    if depth > DEEPEST:
        raise InvalidRequestError(f"a message is nested more than {DEEPEST} deep.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    raise InvalidRequestError(
        f"a message holds {value!r:.60}, of the type {type(value).__name__}.",
        remedy="Give texts, numbers, booleans, None, and lists and dicts of them.",
    )


def _texts(value: object) -> Iterator[str]:
    """Every text in plain values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _end_with(message: dict[str, Any], end: str) -> None:
    """Put the mark behind the message's text."""
    content = message.get("content")
    if not isinstance(content, str):
        raise InvalidRequestError(
            "the last message is no text that could go on.", remedy="Give its content as one text."
        )
    message["content"] = content + end


def _until(end: str, text: str) -> str:
    """What comes before the mark, if there is one."""
    if not end:
        return text
    before, found, _ = text.rpartition(end)
    if not found:
        raise InvalidRequestError(
            "the chat template does not show the last message as it is, so that it cannot go on.",
            remedy="Let the model begin its answer, or write the prompt as a text.",
        )
    return before


def _unused(marks: Iterable[str], texts: Iterable[str]) -> str:
    used = set().union(*texts)
    for mark in marks:
        if mark not in used:
            return mark
    raise InvalidRequestError(
        "the messages hold all of the characters U+FDD0 to U+FDEF.", remedy="Leave one of them out."
    )


def _special_texts(tokenizer: Tokenizer) -> list[str]:
    found = (_text_of(tokenizer, token_id) for token_id in tokenizer.special_token_ids)
    return [text for text in found if len(text) > 1]


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")


def _marked(value: Any, names: Sequence[str], mark: str) -> Any:
    """Plain values with `mark` behind the first character of each of `names` in their texts."""
    if isinstance(value, str):
        for name in names:
            if name in value:
                value = value.replace(name, name[0] + mark + name[1:])
        return value
    if isinstance(value, dict):
        return {_marked(key, names, mark): _marked(item, names, mark) for key, item in value.items()}
    return [_marked(item, names, mark) for item in value] if isinstance(value, list | tuple) else value
