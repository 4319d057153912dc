"""Log-probabilities after the bias, which the real route does not show: it shows the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dcmodel.model import DcModel
from lmql_backends.lmtp.server.openai.double.wishes import Json
from lmql_backends.lmtp.server.openai.logprobs import LOWEST, TokenNames, finite

Row = NDArray[np.float64]


async def biased_rows(
    model: DcModel,
    prefixes: Sequence[Sequence[int]],
    bias: Mapping[int, float],
    allowed: Sequence[int] | None,
) -> list[Row]:
    """Log-probabilities of all tokens after each prefix; `allowed`: those outside have -inf."""
    rows = []
    ids = np.fromiter(bias, np.int64, len(bias))
    values = np.fromiter(bias.values(), np.float64, len(bias))
    for found in await model.next_tokens(prefixes):
        row = found.raw_logprobs.astype(np.float64)
        row[ids] += values
        if allowed is not None:
            kept = np.full_like(row, -np.inf)
            kept[list(allowed)] = row[list(allowed)]
            row = kept
        rows.append(row - np.logaddexp.reduce(row))
    return rows


def show_rows(
    logprobs: Json, rows: Sequence[Row], token_ids: Sequence[int], names: TokenNames, tops: int
) -> None:
    """Put them into a choice's log-probabilities of either form, whose last ones are those of its tokens."""
    if "content" in logprobs:
        for entry, row, token_id in zip(logprobs["content"], rows, token_ids, strict=True):
            entry["logprob"] = finite(float(row[token_id]))
            entry["top_logprobs"] = [
                {"token": names(other), "logprob": value, "bytes": list(names.bytes_of(other))}
                for other, value in _likeliest(row, tops)
            ]
        return
    first = len(logprobs["token_logprobs"]) - len(token_ids)
    for place, (row, token_id) in enumerate(zip(rows, token_ids, strict=True), first):
        logprobs["token_logprobs"][place] = finite(float(row[token_id]))
        if logprobs["top_logprobs"] is not None:
            named: dict[str, float] = {}
            for other, value in _likeliest(row, tops):
                named.setdefault(names(other), value)
            named.setdefault(names(token_id), finite(float(row[token_id])))
            logprobs["top_logprobs"][place] = named


def _likeliest(row: Row, tops: int) -> list[tuple[int, float]]:
    order = np.argsort(-row, kind="stable")[:tops]
    return [(int(token_id), float(row[token_id])) for token_id in order if row[token_id] > LOWEST]
