"""GGUF files that are no models are known by their beginning."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf_vocabularies import byte_level_fields, save_vocabulary

from dcmodel.errors import ModelLoadError, ModelNotFoundError
from lmql_backends.llama_cpp.header import read_header
from lmql_backends.llama_cpp.hub import local_file


def save(path, *, architecture="llama", kind="model", tensors=1, **general):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_array("general.tags", ["a", "b"])
    writer.add_array("general.numbers", [1.5, 2.5])
    writer.add_uint64("general.count", 7)
    writer.add_bool("general.flag", True)
    writer.add_string("general.name", "ünïcode")
    writer.add_uint32(f"{architecture}.block_count", 1)
    writer.add_string("general.late", "not read")
    for index in range(tensors):
        writer.add_tensor(f"t{index}", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_leading_texts_are_read(tmp_path):
    header = read_header(save(tmp_path / "a.gguf", tensors=3))
    assert header.tensor_count == 3
    assert header.general == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "ünïcode",
    }


def test_what_cannot_be_read_is_left_to_llama_cpp(tmp_path):
    whole = save(tmp_path / "a.gguf").read_bytes()
    path = tmp_path / "bad.gguf"
    for length in range(0, 200, 7):
        path.write_bytes(whole[:length])
        assert read_header(path) is None
        assert local_file(str(path), {}) == path
    for version in (1, 9):
        path.write_bytes(whole[:4] + bytes([version]) + whole[5:])
        assert read_header(path) is None
    assert read_header(tmp_path / "none.gguf") is None
    assert read_header(tmp_path) is None


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"kind": "adapter"}, r"a LoRA adapter\. .*extra=\{'lora'"),
        ({"kind": "mmproj"}, "the projector"),
        ({"architecture": "clip"}, "the projector"),
        ({"kind": "imatrix"}, "an importance matrix"),
        ({"tensors": 0}, "a vocabulary without a model"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_what_it_is(tmp_path, options, kind):
    path = save(tmp_path / "other.gguf", **options)
    with pytest.raises(ModelLoadError, match=rf"other\.gguf is {kind}"):
        local_file(str(path), {})


def test_the_first_of_many_files_may_hold_no_tensors(tmp_path):
    path = save(tmp_path / "a-00001-of-00002.gguf", tensors=0)
    assert local_file(str(path), {}) == path


def test_files_beside_a_model_are_not_taken_for_it(tmp_path):
    save(tmp_path / "a-lora.gguf", kind="adapter")
    save_vocabulary(tmp_path / "b-vocab.gguf", **byte_level_fields())
    with pytest.raises(ModelNotFoundError, match="none that holds a model"):
        local_file(str(tmp_path), {})
    model = save(tmp_path / "c.gguf")
    assert local_file(str(tmp_path), {}) == model
