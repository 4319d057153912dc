"""Names of models and adapters, and what they mean."""

from __future__ import annotations

import httpx
import pytest
from conformance.requests import request, run_one
from fakes.raw_client import fake_model

from dcmodel.errors import AdapterNotFoundError, InvalidRequestError, ModelNotFoundError
from dcmodel.types import ScoreRequest
from lmql_backends.lmtp.server.app import create_app
from lmql_backends.lmtp.server.contracts import ModelState
from lmql_backends.lmtp.server.models import StaticModels
from lmql_backends.lmtp.server.routed import RoutedModels, routed


@pytest.fixture
async def models():
    first, second = fake_model(), fake_model(seed=1)
    await first.mount_adapter("law", "seed:7")
    await first.mount_adapter("both", "seed:8")
    await second.mount_adapter("both", "seed:9")
    yield {"one": first, "org/two:7b": second}
    for model in (first, second):
        await model.aclose()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("", ("", "")),
        ("one", ("one", "")),
        ("one:law", ("one", "law")),
        ("law", ("one", "law")),
        ("org/two:7b", ("org/two:7b", "")),
        ("org/two:7b:both", ("org/two:7b", "both")),
        ("one:none", ("one", "none")),
        ("none", ("none", "")),
    ],
)
async def test_a_name_means_a_model_and_perhaps_an_adapter(models, name, meant):
    assert RoutedModels(StaticModels(models)).split(name) == meant


async def test_an_adapter_that_several_models_have_is_named_with_its_model(models):
    with pytest.raises(InvalidRequestError, match="2 models") as caught:
        RoutedModels(StaticModels(models)).use("both")
    assert "one:both, org/two:7b:both" in caught.value.remedy


async def test_a_model_hides_an_adapter_of_its_name(models):
    await models["one"].mount_adapter("org/two", "seed:5")
    models["org/two"] = models["org/two:7b"]
    assert routed(StaticModels(models)).split("org/two") == ("org/two", "")


async def test_what_is_there_is_used_with_its_adapter(models):
    found = RoutedModels(StaticModels(models))
    base = models["one"]
    item = request(base, "yes")
    async with found.use("one:law") as served:
        expected = await run_one(base, request(base, "yes", adapter="law"))
        assert (await run_one(served.model, item)).token_ids == expected.token_ids
        assert served.llm.model is served.model
        assert served.name == "one:law"
        left = await served.model.session(item)
        right = await base.session(request(base, "yes", adapter="law"))
        assert (await left.step()).token_id == (await right.step()).token_id
        ask = ScoreRequest(prompt_ids=(3, 4), continuations=((5,),))
        scores = [(await model.score(ask)).continuations for model in (served.model, base)]
        assert scores[0] != scores[1]
        again = await served.model.next_tokens([(3, 4)], None, 2)
        assert (
            again[0].token_ids.tolist() != (await base.next_tokens([(3, 4)], None, 2))[0].token_ids.tolist()
        )
        with pytest.raises(InvalidRequestError, match="both"):
            served.model.generate(request(base, "yes", adapter="both"))
    async with found.use("one:law") as again:
        assert again is served


async def test_what_is_not_there_is_named(models):
    found = RoutedModels(StaticModels(models))
    with pytest.raises(AdapterNotFoundError, match=r"'none'.*law, both"):
        async with found.use("one:none"):
            pass
    with pytest.raises(ModelNotFoundError):
        found.use("none")


async def test_each_model_says_whether_it_is_ready(models):
    app = create_app(StaticModels(models))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        for name, status in (("one", 200), ("one:law", 200), ("law", 200), ("one:none", 404), ("none", 404)):
            answer = await http.get("/ready", params={"model": name})
            assert answer.status_code == status, name
        assert (await http.get("/ready?model=one")).json() == {"status": ModelState.READY}
