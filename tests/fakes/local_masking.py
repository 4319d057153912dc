"""Local masking, written down plainly: what each token would be drawn from, and whole texts with their
probabilities."""

from __future__ import annotations

import numpy as np

from dcmodel.mask import allocate_rows, row_to_bools


def masked_weights(model, tokenizer, context, matcher, *, temperature=1.0, top_p=1.0, added=None):
    """Of the whole vocabulary."""
    logits = np.asarray(model.logits(context), dtype=np.float64).copy()
    for token_id, value in (added or {}).items():
        logits[token_id] += value
    row = allocate_rows(1, tokenizer.vocab_size)[0]
    matcher.fill_mask(row)
    logits[~row_to_bools(row, tokenizer.vocab_size)] = -np.inf
    weights = np.exp((logits - logits.max()) / temperature)
    weights /= weights.sum()
    if top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= top_p]] = 0.0
        weights /= weights.sum()
    return weights


def texts_of(model, tokenizer, prompt, constraint, *, max_tokens=8, least=1e-7, **how):
    """All outputs, as tuples of ids, with their probabilities: forced tokens are appended, others drawn.

    Outputs less likely than `least` are left out.
    """
    found: dict[tuple[int, ...], float] = {}
    penalties = how.pop("penalties", lambda output: None)

    def grow(output, matcher, probability):
        while not matcher.is_finished and len(output) < max_tokens and (forced := matcher.forced()):
            for token_id in forced:
                if len(output) < max_tokens and not matcher.is_finished:
                    assert matcher.advance([token_id]) == 1
                    output = [*output, token_id]
        ended = output and output[-1] in tokenizer.eos_token_ids
        if ended or matcher.is_finished or len(output) == max_tokens:
            key = tuple(output)
            found[key] = found.get(key, 0.0) + probability
            return
        weights = masked_weights(
            model, tokenizer, [*prompt, *output], matcher, added=penalties(output), **how
        )
        for token_id in np.flatnonzero(weights * probability > least):
            branch = matcher.fork()
            assert branch.advance([int(token_id)]) == 1
            grow([*output, int(token_id)], branch, probability * float(weights[token_id]))

    grow([], constraint.compile(tokenizer).matcher(), 1.0)
    return found


def total_variation(counts, expected) -> float:
    """Between what was counted and probabilities."""
    total = sum(counts.values())
    keys = counts.keys() | expected.keys()
    return 0.5 * sum(abs(counts.get(key, 0) / total - expected.get(key, 0.0)) for key in keys)


def noise(expected, draws, *, quantile=0.999, seed=1) -> float:
    """What the total variation of so many draws from the very distribution is, at most (in this share)."""
    rng = np.random.default_rng(seed)
    values = np.array([*expected.values()])
    values /= values.sum()
    counts = rng.multinomial(draws, values, size=2000) / draws
    return float(np.quantile(0.5 * np.abs(counts - values).sum(axis=1), quantile))
