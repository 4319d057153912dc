"""Answers of the real routes, cut to what the endpoint shows."""

from __future__ import annotations

from typing import Any

from lmql_backends.lmtp.server.openai.double.limits import OpenAILimits
from lmql_backends.lmtp.server.openai.double.wishes import Json, Wish
from lmql_backends.lmtp.server.openai.logprobs import LOWEST

OWN_ANSWERS = ("stop_reason", "ended_by", "certificate")


def shape_answer(answer: Json, wish: Wish, limits: OpenAILimits) -> Json:
    """A whole answer, changed in place."""
    for choice in answer["choices"]:
        _shape_choice(choice, wish, limits)
        if wish.tool:
            _call_tool(choice, wish.tool, answer["id"], is_first=True)
    if not wish.wants_ids:
        answer.pop("prompt_token_ids", None)
    return _shape_head(answer, limits)


def shape_event(event: Json, wish: Wish, limits: OpenAILimits) -> Json | None:
    """An event of a stream, changed in place; None where nothing is left that the endpoint would send."""
    if "error" in event:
        return event
    for choice in event["choices"]:
        _shape_choice(choice, wish, limits)
        if _is_empty(choice):
            return None
        if wish.tool:
            is_first = "role" in choice["delta"]
            _call_tool(choice, wish.tool, event["id"], is_first=is_first)
    return _shape_head(event, limits)


def shape_error(body: Json, status: int) -> Json:
    """Types and codes as OpenAI's, where ours are finer."""
    error = body["error"]
    if status in (400, 404, 413, 422):
        error["type"] = "invalid_request_error"
    return body


def _shape_head(answer: Json, limits: OpenAILimits) -> Json:
    usage = answer.get("usage")
    if usage and not limits.extra_answers:
        usage["completion_tokens_details"] = {"reasoning_tokens": 0}
    if limits.seed == "honoured":
        answer["system_fingerprint"] = "fp_double"
    return answer


def _shape_choice(choice: Json, wish: Wish, limits: OpenAILimits) -> None:
    if not limits.extra_answers:
        for name in OWN_ANSWERS:
            choice.pop(name, None)
    if not wish.wants_ids:
        choice.pop("token_ids", None)
        choice.pop("prompt_token_ids", None)
    logprobs = choice.get("logprobs")
    if wish.is_chat and logprobs:
        for entry in logprobs["content"]:
            _shape_entry(entry, wish.tops or 0, limits.shown_ranks)


def _shape_entry(entry: Json, tops: int, shown_ranks: int | None) -> None:
    """One token of a chat's log-probabilities."""
    likeliest = entry["top_logprobs"]
    if shown_ranks is not None and len(likeliest) >= shown_ranks:
        last = likeliest[shown_ranks - 1]["logprob"] if shown_ranks else 0.0
        if entry["logprob"] < last:
            entry["logprob"] = LOWEST
    entry["top_logprobs"] = likeliest[:tops]


def _is_empty(choice: Json) -> bool:
    """Whether the real route sent it for its token ids alone."""
    if choice.get("finish_reason") or choice.get("logprobs") or "token_ids" in choice:
        return False
    if "delta" in choice:
        return "role" not in choice["delta"] and not choice["delta"].get("content")
    return not choice.get("text")


def _call_tool(choice: Json, name: str, answer_id: str, *, is_first: bool) -> None:
    """What was said becomes the input of a custom tool."""
    said: Json = choice.get("message") or choice["delta"]
    text = said.pop("content", None)
    call: dict[str, Any] = {"index": 0} if "delta" in choice else {}
    if is_first:
        call |= {"id": f"call_{answer_id[-24:]}", "type": "custom"}
        call["custom"] = {"name": name, "input": text or ""}
        said["content"] = None
    else:
        call["custom"] = {"input": text or ""}
    if text or is_first:
        said["tool_calls"] = [call]
    if choice.get("finish_reason") == "stop":
        choice["finish_reason"] = "tool_calls"
