"""What ``lmql.model("dcmodel:...")`` means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dcmodel.errors import InvalidRequestError

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]
QUERY = 'argmax "The capital is[X]" where len(TOKENS(X)) < 8'


@pytest.fixture
def plugin(lmql):
    import lmql_backends.lmql as plugin

    return plugin


async def test_the_prefix_alone_is_the_embedded_model(lmql, plugin, inside):
    model = lmql.model("dcmodel:", dtype="float32", device="cpu")
    assert model.model_identifier == "dcmodel:"
    first = (await lmql.run(QUERY, model=model)).variables
    again = (await lmql.run(QUERY, model=lmql.model("dcmodel:", dtype="float32", device="cpu"))).variables
    assert first == again == (await lmql.run(QUERY, model=inside)).variables


async def test_a_folder_is_found_with_its_tokenizer(lmql, plugin, inside):
    from lmql_backends.tiny import MODEL_DIR

    model = lmql.model(f"dcmodel:{MODEL_DIR}", dtype="float32", device="cpu")
    found = (await lmql.run(QUERY, model=model)).variables
    assert found == (await lmql.run(QUERY, model=inside)).variables


def test_nothing_is_loaded_before_the_first_query(lmql, plugin):
    assert str(lmql.model("dcmodel:no/such-model", tokenizer="gpt2")).startswith(
        "lmql.LLM(dcmodel:no/such-model"
    )


def test_other_names_are_lmqls_own(lmql, plugin):
    assert lmql.model("local:gpt2").model_identifier == "local:gpt2"


def test_registering_twice_wraps_once(lmql, plugin):
    from lmql.api.llm import LLM

    before = LLM.from_descriptor.__func__
    plugin.register()
    assert LLM.from_descriptor.__func__ is before


def test_a_file_needs_a_tokenizer(lmql, plugin, tmp_path):
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(InvalidRequestError, match="Give tokenizer="):
        lmql.model(f"dcmodel:{file}")


def test_masks_name_ids_of_lmqls_own_which_are_ignored(plugin):
    from lmql_backends.lmql.client import hard_mask

    assert hard_mask({3: 100, 500: 100}, 384).to_ids() == [3]
    assert len(hard_mask({3: -100, 500: -100}, 384)) == 383
    assert len(hard_mask({500: -100}, 384)) == 384
    assert hard_mask({}, 384) is None
    with pytest.raises(InvalidRequestError, match="allows none"):
        hard_mask({500: 100}, 384)


async def test_a_late_failure_ends_the_stream_and_an_early_one_is_raised():
    """LMQL waits for ever for a stream that fails behind its fourth token."""
    from fakes.fake_engine import loaded_fake
    from fakes.small_tokenizer import small_tokenizer

    from dcmodel.errors import NonFiniteLogitsError
    from dcmodel.local import LocalDcModel
    from lmql_backends.lmql.client import DcModelClient

    loaded = loaded_fake(small_tokenizer())
    async with LocalDcModel(loaded) as model:
        client = DcModelClient(lambda: model)

        async def tokens(prompt):
            stream = client.generate(prompt, max_tokens=12, logit_bias={1: -100})
            return [item["token"] async for item in stream]

        whole = await tokens([0, 99])
        loaded.engine.nan_token = whole[6]
        assert await tokens([0, 99]) == whole[:7]
        with pytest.raises(NonFiniteLogitsError):
            await tokens([0, 99, *whole[:7]])


def test_the_rest_of_the_package_does_not_import_lmql():
    code = "import sys, dcmodel, lmql_backends.lmtp.server.legacy; assert 'lmql' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
