"""Attention of branches: each token to the sequence that its tree grows behind, its ancestors and itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lmql_backends.transformers.branch_plan import PlacedBranches
from lmql_backends.transformers.scores import Scores, Seen, attend_both


def attend_branches(
    branches: PlacedBranches,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Scores,
    block_rows: int,
    context: Tensor,
) -> None:
    """One span's branches: ``[heads, rows, dim]``, into `context` ``[rows, query heads, value dim]``.

    The sequence's keys and values are in its slot. They are read once per block; of the branches, a block
    reads itself and its ancestors, so that many candidates cost no more than their number times a prompt.
    """
    heads = key.shape[0]
    query = query.view(heads, -1, *query.shape[1:])
    shared, count = query.shape[1:3]
    past_keys = branches.segment.keys[layer][branches.slot]
    past_values = branches.segment.values[layer][branches.slot]
    end = branches.end
    is_dense = prefers_dense(query, scores)
    copies = 1 if is_dense else shared
    for block in branches.blocks(count if is_dense else block_rows, scores.window, copies, query):
        past = Seen(past_keys[:, :, block.low : end], past_values[:, block.low : end], block.past_mask)
        own = Seen(key[:, block.own].transpose(1, 2), value[:, block.own], block.own_mask)
        queries = query[:, :, block.rows]
        if is_dense:
            attended = attend_dense(queries, past, own, scores)
        else:
            attended = attend_both(
                queries.flatten(1, 2), past, own, scores, heads=heads, sink_rows=(1, shared, queries.shape[2])
            )
        context[block.rows] = attended.view(heads * shared, queries.shape[2], -1).transpose(0, 1)


def prefers_dense(query: Tensor, scores: Scores) -> bool:
    """Whether torch's own attention over all branches at once is the faster way."""
    return scores.is_plain and query.device.type != "cpu"


def attend_dense(query: Tensor, past: Seen, own: Seen, scores: Scores) -> Tensor:
    """Torch's own: queries ``[heads, query heads per head, rows, dim]``, masks ``[rows, tokens]``."""
    assert own.mask is not None
    shared, rows = query.shape[1:3]
    past_mask = own.mask.new_zeros((rows, past.values.shape[1])) if past.mask is None else past.mask
    keys = torch.cat([past.keys, own.keys], dim=2).transpose(1, 2)
    values = torch.cat([past.values, own.values], dim=1)
    return F.scaled_dot_product_attention(
        query,
        keys.unsqueeze(1).expand(-1, shared, -1, -1),
        values.unsqueeze(1).expand(-1, shared, -1, -1),
        attn_mask=torch.cat([past_mask, own.mask], dim=1),
        scale=scores.scaling,
    )
