"""What a body of /v1/chat/completions asks for: one conversation, and the draws of its answer."""

from __future__ import annotations

from typing import Any

import msgspec

from dcmodel.errors import CapabilityError
from lmql_backends.lmtp.server.contracts import ServedModel
from lmql_backends.lmtp.server.openai.constraints import constraint_of
from lmql_backends.lmtp.server.openai.errors import FieldError
from lmql_backends.lmtp.server.openai.fields import ChatBody, MessageBody, TokenizeBody
from lmql_backends.lmtp.server.openai.jobs import (
    Job,
    PromptJob,
    check_common,
    check_room,
    make_draws,
    room_left,
    score_request,
)

NO_TOOLS = "there are no tools here: the model's calls would not be read."


def make_job(body: ChatBody, served: ServedModel) -> Job:
    """Everything that one body asks for. Raises `InvalidRequestError`, mostly as a `FieldError`, and
    `CapabilityError` where the model has no chat template."""
    _check(body)
    max_tokens = _max_tokens(body)
    ids = conversation_ids(served, body)
    check_room(served, ids, max_tokens or 0)
    constraint, field = constraint_of(body, served.model.tokenizer.vocab_size)
    draws = make_draws(
        body,
        served.model,
        ids,
        constraint=constraint,
        index=0,
        draws=body.n or 1,
        max_tokens=max_tokens or room_left(served, ids),
        logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs or 0,
    )
    score = score_request(ids, body.prompt_logprobs)
    return Job(
        prompts=(PromptJob(prompt_ids=ids, text="", draws=draws, score=score),), constraint_field=field
    )


def conversation_ids(served: ServedModel, body: ChatBody | TokenizeBody) -> tuple[int, ...]:
    """The conversation as the model was trained to read it."""
    if not served.model.info.chat_template:
        raise CapabilityError(
            f"the model {served.name!r} has no chat template: it is not made for conversations, "
            "or does not say how.",
            remedy="Send the prompt as a text, to /v1/completions, or serve a model that was tuned for chat.",
        )
    plain = [_plain(message, f"messages[{place}]") for place, message in enumerate(body.messages or ())]
    if not body.continue_final_message:
        generation = body.add_generation_prompt is not False
        return tuple(served.llm.chat_prompt(plain, add_generation_prompt=generation))
    if body.add_generation_prompt:
        raise FieldError(
            "continue_final_message",
            "continue_final_message does not go with add_generation_prompt.",
            remedy="Leave one of them out.",
        )
    return tuple(served.llm.chat_prompt(plain, continue_final_message=True))


def _plain(message: MessageBody, place: str) -> dict[str, Any]:
    """A message for the template: what was given, and its parts as one text."""
    for name in ("audio", "function_call"):
        if getattr(message, name) is not None:
            raise FieldError(
                f"{place}.{name}", f"{place} has the field {name!r}.", code="unsupported_parameter"
            )
    fields: dict[str, Any] = {
        name: value for name, value in msgspec.to_builtins(message).items() if value is not None
    }
    fields.pop("annotations", None)
    if isinstance(message.content, list):
        fields["content"] = _joined(message, place)
    elif message.content is None and not message.tool_calls:
        raise FieldError(f"{place}.content", f"{place} has no content.", code="missing_required_parameter")
    return fields


def _joined(message: MessageBody, place: str) -> str:
    texts = []
    assert isinstance(message.content, list)
    for number, part in enumerate(message.content):
        if part.type not in ("text", "input_text") or part.text is None:
            raise FieldError(
                f"{place}.content[{number}]",
                f"{place} has a part of the type {part.type!r:.40}.",
                remedy="Messages are texts, and parts of the type text.",
                code="unsupported_content",
            )
        texts.append(part.text)
    return "".join(texts)


def _max_tokens(body: ChatBody) -> int | None:
    """Two names of one thing, OpenAI's old and new one; None: what the context leaves."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise FieldError(
            "max_tokens",
            f"max_tokens is {old} and max_completion_tokens is {new}.",
            remedy="Send one of them.",
        )
    return old if new is None else new


def _check(body: ChatBody) -> None:
    """What no type can say. Raises `FieldError`."""
    if body.top_logprobs is not None and not body.logprobs:
        raise FieldError(
            "top_logprobs", "top_logprobs does not go without logprobs.", remedy="Send logprobs=true too."
        )
    if body.tools:
        raise _unsupported("tools", NO_TOOLS)
    if body.tool_choice not in (None, "none", "auto"):
        raise _unsupported("tool_choice", NO_TOOLS)
    if body.functions:
        raise _unsupported("functions", NO_TOOLS)
    if body.function_call not in (None, "none", "auto"):
        raise _unsupported("function_call", NO_TOOLS)
    if body.modalities not in (None, ["text"]):
        raise _unsupported("modalities", "answers are texts.")
    if body.reasoning_effort not in (None, "none"):
        raise _unsupported("reasoning_effort", "how much a model reasons is a matter of its chat template.")
    if body.verbosity not in (None, "medium"):
        raise _unsupported("verbosity", "there is no setting for how much a model says.")
    for name in ("audio", "moderation", "web_search_options"):
        if getattr(body, name) is not None:
            raise _unsupported(name, f"there is no {name} here.")
    check_common(body, prompts=1, draws=body.n or 1)


def _unsupported(param: str, message: str) -> FieldError:
    return FieldError(param, message, remedy=f"Leave {param} out.", code="unsupported_parameter")
