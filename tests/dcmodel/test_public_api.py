from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import dcmodel
from dcmodel import errors


def test_all_names_are_there_and_come_from_one_table():
    assert set(dcmodel.__all__) == {*dcmodel._HOMES, "__version__"}
    for name in dcmodel.__all__:
        assert getattr(dcmodel, name) is not None
    assert dir(dcmodel) == sorted(dcmodel.__all__)


def test_what_type_checkers_see_is_what_is_there():
    tree = ast.parse(Path(dcmodel.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == {name: f"dcmodel.{module}" for name, module in dcmodel._HOMES.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        dcmodel.Nope  # noqa: B018


def test_every_constraint_of_the_package_is_public():
    constraints = importlib.import_module("dcmodel.constraints")
    kinds = {
        name
        for name in constraints.__all__
        if isinstance(value := getattr(constraints, name), type) and issubclass(value, dcmodel.Constraint)
    }
    assert kinds <= set(dcmodel.__all__)


def test_every_error_stands_in_the_tree_of_the_docstring():
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert name in errors.__doc__


def test_every_public_name_has_a_docstring():
    for name in dcmodel.__all__:
        if name != "__version__":
            assert getattr(dcmodel, name).__doc__, name


def test_every_public_method_of_llm_has_a_docstring():
    for name, value in vars(dcmodel.LLM).items():
        if not name.startswith("_") and callable(value):
            assert value.__doc__, name


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert dcmodel.__version__ == version("dcmodel")
