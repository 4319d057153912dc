from __future__ import annotations

import pytest
from fakes.openai_models import OURS

from lmql_backends.openai.bodies import body_of
from lmql_backends.openai.endpoint_api import Ask


@pytest.mark.parametrize(
    ("seed", "sent"), [(7, 7), (2**63 - 1, 2**63 - 1), (2**64 - 1, 2**63 - 1), (2**63, 0)]
)
def test_a_seed_beyond_what_endpoints_take_is_cut_to_it(seed, sent):
    ask = Ask(prompt="yes", max_tokens=1, temperature=1.0, seed=seed)
    assert body_of("fake", ask, OURS)["seed"] == sent
