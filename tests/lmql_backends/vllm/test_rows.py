"""Rows of a step: vLLM's own logits, and those made from hidden states, are rows of one matrix."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lmql_backends.torch_rows.rows import TorchLogitRows, Workspace  # noqa: E402
from lmql_backends.vllm import rows as module  # noqa: E402
from lmql_backends.vllm.rows import StepRows  # noqa: E402

VOCAB, TOKENS, WIDTH = 300, 12, 8
# The last tokens of three requests of 5, 1 and 6 tokens.
LAST = [4, 5, 11]


@pytest.fixture
def hidden():
    return torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def head():
    return torch.randn(WIDTH, VOCAB, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def both(hidden, head):
    """All rows as one matrix, and as a step of vLLM has them."""
    workspace = Workspace(torch.device("cpu"))
    request_rows = np.full(TOKENS, -1, dtype=np.int64)
    request_rows[LAST] = np.arange(len(LAST))
    step = StepRows(
        (hidden @ head)[LAST],
        request_rows=request_rows,
        token_rows=np.arange(TOKENS),
        hidden=hidden,
        compute_logits=lambda some: some @ head,
        workspace=workspace,
    )
    return TorchLogitRows(hidden @ head, Workspace(torch.device("cpu"))), step


@pytest.mark.parametrize("slice_bytes", [1, 3 * 4 * VOCAB, 1 << 20])
@pytest.mark.parametrize("top", [0, 4])
def test_scores_do_not_depend_on_where_a_row_comes_from(both, monkeypatch, slice_bytes, top):
    monkeypatch.setattr(module, "SLICE_BYTES", slice_bytes)
    whole, step = both
    rows = np.array([0, 4, 4, 7, 11, 5, 2, 3])
    targets = np.arange(8) * 31
    expected, found = whole.score(rows, targets, top), step.score(rows, targets, top)
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-5)
    np.testing.assert_array_equal(found.rank, expected.rank)
    assert found.is_finite.all()
    np.testing.assert_array_equal(found.top[0], expected.top[0])
    np.testing.assert_allclose(found.top[1], expected.top[1], atol=1e-5)


def test_a_row_that_is_not_finite_is_told_apart(both, hidden):
    _, step = both
    hidden[2] = float("nan")
    assert step.score(np.array([1, 2]), np.array([0, 0]), 0).is_finite.tolist() == [True, False]


def test_whole_rows_come_in_the_order_of_the_tokens(both):
    whole, step = both
    np.testing.assert_allclose(step.to_numpy(), whole.to_numpy(), atol=1e-5)


def test_distributions_are_those_of_the_requests(both):
    whole, step = both
    rows = np.array(LAST)
    np.testing.assert_allclose(step.log_softmax(rows), whole.log_softmax(rows), atol=1e-5)
