from __future__ import annotations

import pytest

from dcmodel.env import Settings, nearest_name
from dcmodel.errors import SettingError


def test_an_empty_environment_says_nothing():
    settings = Settings.from_environ({"HOME": "/home/mira"})
    assert (settings.model, settings.backend, settings.device, settings.dtype) == (None, None, None, None)
    assert settings.max_context is None


def test_every_variable_is_read():
    settings = Settings.from_environ(
        {
            "DCMODEL_MODEL": "some/model",
            "DCMODEL_BACKEND": "transformers",
            "DCMODEL_DEVICE": "cuda:1",
            "DCMODEL_DTYPE": "bfloat16",
            "DCMODEL_MAX_CONTEXT": "2048",
        }
    )
    assert settings == Settings(
        model="some/model",
        backend="transformers",
        device="cuda:1",
        dtype="bfloat16",
        max_context=2048,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCMODEL_DEVICE", "gpu"),
        ("DCMODEL_DEVICE", "cuda:"),
        ("DCMODEL_DTYPE", "float7"),
        ("DCMODEL_MAX_CONTEXT", "many"),
        ("DCMODEL_MAX_CONTEXT", "0"),
        ("DCMODEL_MAX_CONTEXT", "-5"),
        ("DCMODEL_MAX_CONTEXT", "٣"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable(name, value):
    with pytest.raises(SettingError, match=name) as caught:
        Settings.from_environ({name: value})
    assert repr(value) in str(caught.value)


def test_an_empty_variable_counts_as_unset():
    assert Settings.from_environ({"DCMODEL_DEVICE": "", "DCMODEL_MAX_CONTEXT": ""}).device is None


def test_a_misspelt_variable_is_reported_with_the_name_that_was_meant():
    settings = Settings.from_environ({"DCMODEL_BAKEND": "transformers", "OTHER": "1"})
    assert settings.unknown == ("DCMODEL_BAKEND",)
    assert nearest_name("DCMODEL_BAKEND") == "DCMODEL_BACKEND"
    assert nearest_name("QQQ") is None
