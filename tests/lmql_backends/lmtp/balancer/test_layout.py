"""What each worker process may use."""

from __future__ import annotations

import argparse

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.lmtp.balancer.layout import Layout, device_variable
from lmql_backends.lmtp.balancer.routes import checked_address
from lmql_backends.lmtp.commands import serve
from lmql_backends.lmtp.commands.serving_workers import serve_workers, worker_arguments


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    return parser.parse_args(["serve", *words])


def test_a_layout_divides_the_devices_in_order():
    assert Layout.parse("2x2").environments({}, cores=8) == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]


def test_devices_are_taken_from_those_that_are_visible():
    environ = {"ROCR_VISIBLE_DEVICES": "5, 3,GPU-7"}
    variable = device_variable(environ, has_rocm=True)
    assert Layout.parse("3x1").environments(environ, cores=8, variable=variable) == [
        {"ROCR_VISIBLE_DEVICES": "5"},
        {"ROCR_VISIBLE_DEVICES": "3"},
        {"ROCR_VISIBLE_DEVICES": "GPU-7"},
    ]
    with pytest.raises(InvalidRequestError, match="needs 4 devices; 3 are visible"):
        Layout.parse("2x2").environments(environ, cores=8, variable=variable)


def test_workers_share_the_cores_unless_threads_are_set():
    assert {tuple(item.values()) for item in Layout.of(4).environments({}, cores=8)} == {("2", "2", "2")}
    assert Layout.of(4).environments({"OMP_NUM_THREADS": "3"}, cores=8) == [{}] * 4
    assert Layout.of(1).environments({}, cores=8) == [{}]
    assert Layout.of(3).environments({}, cores=1)[0]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize("text", ["", "2", "x2", "0x1", "2x0", "2x-1", "2x2x2", "a x b", "99999x1", "300x1"])
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(InvalidRequestError):
        Layout.parse(text)


@pytest.mark.parametrize(
    ("environ", "has_rocm", "variable"),
    [
        ({}, False, "CUDA_VISIBLE_DEVICES"),
        ({}, True, "ROCR_VISIBLE_DEVICES"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, True, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_the_variable_of_the_devices(environ, has_rocm, variable):
    assert device_variable(environ, has_rocm=has_rocm) == variable


def test_a_worker_gets_the_model_and_its_options_and_listens_where_the_balancer_says():
    words = worker_arguments(
        parsed(
            "a=b", "--device", "cuda", "--option", "x=1", "--option", "y=2", "--workers", "2", "--port", "9"
        )
    )
    assert words[:3] == ["a=b", "--device", "cuda"]
    assert words.count("--option") == 2
    assert words[words.index("--port") + 1] == "0"
    assert "--until-stdin-closes" in words
    assert "--workers" not in words
    assert parsed(*words).models == ["a=b"]


@pytest.mark.parametrize(
    "words", [("--workers", "2", "--layout", "2x1"), ("a", "b", "--workers", "2"), ("--workers", "0")]
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(words):
    with pytest.raises(InvalidRequestError):
        serve_workers(parsed(*words), None)


@pytest.mark.parametrize("text", ["h:1", "lmtp://h:80/", "[::1]:8080", "10.0.0.1:65535"])
def test_addresses_of_workers(text):
    assert checked_address(text) == text.removeprefix("lmtp://").rstrip("/")


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:0", "h:65536", "h:1/x", "http://h:1", "h:x"])
def test_what_is_no_address_of_a_worker_is_refused(text):
    with pytest.raises(InvalidRequestError):
        checked_address(text)
