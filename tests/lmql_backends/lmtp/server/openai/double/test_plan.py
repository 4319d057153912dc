"""Plans of faults: when an entry happens, and what is wrong with a plan."""

from __future__ import annotations

import json

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.server.openai.double.plan import KINDS, plan_from, read_plan

TEXTS, CHATS = "/v1/completions", "/v1/chat/completions"


def hits(plan, count, path=TEXTS, **body):
    """The numbers of the requests that something befalls."""
    data = json.dumps(body).encode()
    return [number for number in range(1, count + 1) if plan.next(path, body, data)]


@pytest.mark.parametrize(
    ("entry", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"requests": [1, 3]}, [1, 3]),
        ({"requests": ["2-4", 6]}, [2, 3, 4, 6]),
        ({"requests": ["5-"]}, [5, 6]),
        ({"times": 2}, [1, 2]),
        ({"requests": ["3-"], "times": 1}, [3]),
        ({"rate": 0}, []),
    ],
)
def test_an_entry_happens_to_the_requests_that_it_names(entry, numbers):
    assert hits(plan_from({"faults": [{"fault": "hang", **entry}]}), 6) == numbers


def test_a_rate_is_a_share_that_the_seed_decides():
    def drawn(seed):
        return hits(plan_from({"seed": seed, "faults": [{"fault": "hang", "rate": 0.1}]}), 5_000)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 400 < len(drawn(1)) < 600


def test_numbers_count_the_requests_that_match():
    plan = plan_from({"faults": [{"fault": "hang", "requests": [2], "match": {"route": "chat"}}]})
    assert hits(plan, 5) == []
    assert hits(plan, 5, CHATS) == [2]


@pytest.mark.parametrize(
    ("match", "path", "body", "is_hit"),
    [
        ({"route": "completions"}, TEXTS, {}, True),
        ({"route": "completions"}, CHATS, {}, False),
        ({"model": "a"}, TEXTS, {"model": "a"}, True),
        ({"model": "a"}, TEXTS, {"model": "b"}, False),
        ({"stream": True}, TEXTS, {"stream": True}, True),
        ({"stream": False}, TEXTS, {"stream": True}, False),
        ({"stream": False}, TEXTS, {}, True),
        ({"text": "weather"}, TEXTS, {"prompt": "the weather is"}, True),
        ({"text": "weather", "model": "a"}, TEXTS, {"prompt": "the weather is"}, False),
    ],
)
def test_an_entry_is_about_the_requests_that_match(match, path, body, is_hit):
    assert bool(hits(plan_from({"faults": [{"fault": "hang", "match": match}]}), 1, path, **body)) == is_hit


def test_faults_of_streams_and_of_whole_answers_do_not_mix():
    plan = plan_from({"faults": [{"fault": "stall"}, {"fault": "cut_json"}, {"fault": "slow", "seconds": 1}]})
    names = {
        stream: [type(fault).__name__ for fault in plan.next(TEXTS, {"stream": stream}, b"")]
        for stream in (True, False)
    }
    assert names == {True: ["Stall", "Slow"], False: ["CutJson", "Slow"]}


def test_all_entries_that_happen_are_told_in_their_order():
    plan = plan_from({"faults": [{"fault": "split"}, {"fault": "comments"}]})
    assert [type(fault).__name__ for fault in plan.next(TEXTS, {"stream": True}, b"")] == [
        "Split",
        "Comments",
    ]


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ([], r"the plan: it is \[\]"),
        ({"fault": []}, "no field 'fault'; there are seed and faults"),
        ({"seed": "1"}, "seed: it is '1'"),
        ({"faults": {}}, "faults: it is"),
        ({"faults": ["hang"]}, r"faults\[0\]: there is no fault None"),
        ({"faults": [{"fault": "hang"}, {"fault": "hangs"}]}, r"faults\[1\]: there is no fault 'hangs'"),
        ({"faults": [{"fault": "hang", "after": 2}]}, r"faults\[0\] \(hang\).*`after`"),
        ({"faults": [{"fault": "hang", "requests": ["5-2"]}]}, r"\(hang\): the span '5-2' holds no number"),
        ({"faults": [{"fault": "error"}]}, r"faults\[0\] \(error\).*`status`"),
        ({"faults": [{"fault": "error", "status": 200}]}, r"faults\[0\] \(error\).*400.*status"),
        ({"faults": [{"fault": "hang", "rate": 2}]}, r"\(hang\).*rate"),
        ({"faults": [{"fault": "hang", "requests": [0]}]}, r"\(hang\).*requests"),
        ({"faults": [{"fault": "hang", "requests": ["4"]}]}, r"\(hang\).*requests"),
        ({"faults": [{"fault": "hang", "match": {"path": "/"}}]}, r"\(hang\).*`path`.*match"),
        ({"faults": [{"fault": "rate_limited", "retry_after": {"form": "days"}}]}, r"days.*retry_after.form"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said_with_its_place(plan, named):
    with pytest.raises(InvalidRequestError, match=named):
        plan_from(plan)


def test_every_kind_of_fault_can_be_written_with_few_words():
    needed = {"error": {"status": 500}, "slow": {"seconds": 1}}
    plan = plan_from({"faults": [{"fault": name, **needed.get(name, {})} for name in KINDS]})
    assert len(plan.faults) == len(KINDS) == 23


def test_a_file_that_is_no_plan_is_named(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(InvalidRequestError, match=r"plan\.json' cannot be read"):
        read_plan(path)
    path.write_text("{")
    with pytest.raises(InvalidRequestError, match=r"plan\.json' is not JSON"):
        read_plan(path)
    path.write_text('{"faults": [{"fault": "x"}]}')
    with pytest.raises(InvalidRequestError, match=r"plan\.json: faults\[0\]"):
        read_plan(path)
