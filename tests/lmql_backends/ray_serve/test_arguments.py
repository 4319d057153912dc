from __future__ import annotations

import pytest

from dcmodel.errors import InvalidRequestError
from lmql_backends.ray_serve.arguments import AppArguments


def test_what_is_not_said_has_a_default():
    told = AppArguments.of({})
    assert (told.model, told.replicas, told.scale()) == ("embedded", 1, None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"modle": "a"}, "modle"),
        ({"replicas": "two"}, "replicas"),
        ({"replicas": 0}, "replicas"),
        ({"autoscale": "4:1"}, "autoscale"),
        ({"autoscale": "0:1"}, "autoscale"),
        ({"autoscale": "1-4"}, "autoscale"),
        ({"drain_seconds": 0}, "drain_seconds"),
        ({"mount_from": ["/adapters"], "ingress_replicas": 2}, "several ingress replicas"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_it(args, message):
    with pytest.raises(InvalidRequestError, match=message):
        AppArguments.of(args)


def test_autoscaling_is_from_the_least_to_the_most():
    assert AppArguments.of({"autoscale": "2:16"}).scale() == (2, 16)


def test_other_numbers_of_replicas_leave_the_ingress_as_it_is():
    a = AppArguments.of({"model": "m", "replicas": 2, "options": {"threads": 1}})
    b = AppArguments.of({"model": "m", "autoscale": "1:8", "options": {"threads": 2}, "gpus": 1.0})
    assert a.for_ingress() == b.for_ingress()
    assert a.revision() == b.revision()
    assert a.spec() != b.spec()


def test_another_model_is_another_revision():
    assert AppArguments.of({"model": "a"}).revision() != AppArguments.of({"model": "b"}).revision()
