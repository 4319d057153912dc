"""The models of 8-grams behind ``/v1/completions``, in a process of its own; prints its port first.

``GET /account`` tells what was asked for since the last time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from benchmarks.ngram_api import NgramApi
from benchmarks.openai_tasks import make_tasks, train
from dcmodel.types import TopLogprob
from dctokenizers import Tokenizer, load
from lmql_backends.openai.endpoint_api import Ask

END_OF_TEXT = 100_257
DRIFT = 0.1
MOST_SHOWN = 20
MOST_BIASES = 300


class Endpoint:
    """One model for each task; the prompt's beginning says which."""

    def __init__(self, tokenizer: Tokenizer, names: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._apis: list[tuple[str, NgramApi]] = []
        for task in make_tasks():
            if task.name in names:
                model, prompt = train(task, tokenizer, DRIFT)
                api = NgramApi(model=model, tokenizer=tokenizer, seed=len(self._apis))
                self._apis.append((tokenizer.decode(prompt), api))
        self._account = {"requests": 0, "completion_tokens": 0}

    async def account(self, _: web.Request) -> web.Response:
        found, self._account = self._account, dict.fromkeys(self._account, 0)
        return web.json_response(found)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._account["requests"] += 1
        if len(body.get("logit_bias") or {}) > MOST_BIASES:
            error = {"message": f"logit_bias takes {MOST_BIASES} entries", "type": "invalid_request_error"}
            return web.json_response({"error": error}, status=400)
        given = body["prompt"]
        prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        several = [prompt for prompt in prompts for _ in range(body.get("n") or 1)]
        choices = [self._choice(body, prompt, index) for index, prompt in enumerate(several)]
        tokens = sum(choice.pop("billed") for choice in choices)
        self._account["completion_tokens"] += tokens
        usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
        known = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": body["model"]}
        message = {**known, "choices": choices, "usage": usage}
        if not body.get("stream"):
            return web.json_response(message)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps(message)}\n\ndata: [DONE]\n\n".encode())
        await response.write_eof()
        return response

    # -- inside ------------------------------------------------------------------------------------

    def _choice(self, body: dict[str, Any], prompt: str | list[int], index: int) -> dict[str, Any]:
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        text = self._tokenizer.decode(ids)
        api = next(api for beginning, api in self._apis if text.startswith(beginning))
        ask = Ask(
            prompt=tuple(ids),
            max_tokens=body.get("max_tokens", 16),
            temperature=body.get("temperature", 1.0),
            bias={int(item): float(value) for item, value in (body.get("logit_bias") or {}).items()},
            top_logprobs=min(body.get("logprobs") or 0, MOST_SHOWN),
        )
        shows_ids = bool(body.get("return_token_ids"))
        rows, reason, billed = self._rows(api, ask, body.get("stop") or [], shows_ids=shows_ids)
        echoed = [(token_id, None, ()) for token_id in ids] if body.get("echo") else []
        return {
            "index": index,
            "text": self._tokenizer.decode([row[0] for row in (*echoed, *rows) if row[0] != END_OF_TEXT]),
            "finish_reason": reason,
            "logprobs": self._shown([*echoed, *rows]) if body.get("logprobs") is not None else None,
            "billed": billed,
            **({"token_ids": [row[0] for row in rows]} if shows_ids else {}),
        }

    def _rows(
        self, api: NgramApi, ask: Ask, stops: Sequence[str], *, shows_ids: bool
    ) -> tuple[list[Any], str, int]:
        """Tokens with what is shown of them, why they end, and how many were drawn."""
        rows: list[Any] = []
        billed = 0
        for piece in api.pieces(ask):
            billed += 1
            if piece.end_id is not None:
                if shows_ids:
                    rows.append((piece.end_id, piece.end_logprob, piece.end_tops))
                return rows, "stop", billed
            rows.append((piece.token_ids[0], (piece.logprobs or (0.0,))[0], (piece.tops or ((),))[0]))
            text = self._tokenizer.decode([row[0] for row in rows])
            if any(stop in text for stop in stops):
                while any(stop in self._tokenizer.decode([row[0] for row in rows]) for stop in stops):
                    rows.pop()
                return rows, "stop", billed
        return rows, "length", billed

    def _shown(self, rows: Sequence[Any]) -> dict[str, Any]:
        tokens, offsets, offset = [self._name(row[0]) for row in rows], list[int](), 0
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        return {
            "tokens": tokens,
            "text_offset": offsets,
            "token_logprobs": [row[1] for row in rows],
            "top_logprobs": [self._tops(row[2]) if row[1] is not None else None for row in rows],
        }

    def _tops(self, tops: Sequence[TopLogprob]) -> dict[str, float]:
        return {self._name(item.token_id): item.logprob for item in tops}

    def _name(self, token_id: int) -> str:
        data = self._tokenizer.token_bytes(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


async def main(vocabulary: str, names: Sequence[str]) -> None:
    endpoint = Endpoint(load(Path(vocabulary)).with_eos([END_OF_TEXT]), names)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/completions", endpoint.complete)
    app.router.add_get("/account", endpoint.account)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent is gone
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
