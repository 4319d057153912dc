"""Several tokens in one event."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from lmql_backends.lmtp.server.openai.double.wishes import Json


async def merged(events: AsyncIterator[bytes], tokens: int) -> AsyncIterator[bytes]:
    """The same texts, with up to so many events of a choice as one. Closing it closes `events`."""
    waiting: dict[int, list[Json]] = {}
    try:
        async for data in events:
            event = _of_one_choice(data)
            if event is None or event["choices"][0].get("finish_reason"):
                for held in (*waiting.values(), [event] if event else []):
                    if held:
                        yield _joined(held)
                waiting.clear()
                if event is None:
                    yield data
                continue
            held = waiting.setdefault(event["choices"][0]["index"], [])
            held.append(event)
            if len(held) == tokens:
                yield _joined(held)
                held.clear()
        for held in waiting.values():
            if held:
                yield _joined(held)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _of_one_choice(data: bytes) -> Json | None:
    """The event, if it is one that adds to a text."""
    if not data.startswith(b"{"):
        return None
    event: Json = msgspec.json.decode(data)
    return event if len(event.get("choices", ())) == 1 else None


def _joined(events: list[Json]) -> bytes:
    first, *others = events
    choice = first["choices"][0]
    for event in others:
        _append(choice, event["choices"][0])
    return msgspec.json.encode(first)


def _append(choice: Json, more: Json) -> None:
    if "text" in choice:
        choice["text"] += more["text"]
    else:
        delta, added = choice["delta"], more["delta"]
        if "content" in added:
            delta["content"] = (delta.get("content") or "") + (added["content"] or "")
        for call, other in zip(delta.get("tool_calls", ()), added.get("tool_calls", ()), strict=False):
            call["custom"]["input"] += other["custom"]["input"]
    if "token_ids" in more:
        choice["token_ids"] = [*choice.get("token_ids", ()), *more["token_ids"]]
    if more.get("logprobs"):
        if choice.get("logprobs"):
            for name, values in more["logprobs"].items():
                if isinstance(values, list):
                    choice["logprobs"][name] = [*(choice["logprobs"][name] or ()), *values]
        else:
            choice["logprobs"] = more["logprobs"]
