"""A declared limit is a real one, and is not kept in silence."""

from __future__ import annotations

import pytest
from conformance.limits import CHECKS

pytestmark = pytest.mark.feature("generate")


async def test_what_is_beyond_a_declared_limit_is_refused_or_marked(case, open_model):
    if not case.limits:
        pytest.skip(f"{case.name} declares no limits")
    for name in case.limits:
        await CHECKS[name](open_model)


def test_every_limit_has_a_check_and_a_reason(case):
    assert set(case.limits) <= set(CHECKS)
    assert all(case.limits.values())
