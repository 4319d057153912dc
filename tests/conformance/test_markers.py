"""Every conformance test says which features it covers: the README's table of backends is made of that."""

from __future__ import annotations

from conformance.recording import FEATURES, FOLDER, suite_tests


def on_backends(request):
    """The tests of this run that the suite runs on backends."""
    items = request.session.items
    return [item for item in items if item.path.parent == FOLDER and "case" in item.fixturenames]


def test_every_test_says_what_it_covers(request):
    for item in on_backends(request):
        marked = {feature for mark in item.iter_markers("feature") for feature in mark.args}
        assert marked, f"{item.name} has no @pytest.mark.feature(...)"
        assert marked <= set(FEATURES), item.name


def test_the_names_read_from_the_source_are_those_of_the_suite(request):
    names = suite_tests()
    assert {f"{item.path.name}::{item.originalname}" for item in on_backends(request)} <= names
    assert "test_scoring.py::test_scores_equal_the_reference" in names
