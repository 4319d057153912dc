"""Files made of others, with other metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf


def with_metadata(source: Path, target: Path, values: Mapping[str, Any]) -> Path:
    """A copy of a GGUF file with further keys, or other values for those that it has; None takes one away.

    With another "general.architecture", the keys under the old one go over to it first.
    """
    reader = gguf.GGUFReader(source)
    old = reader.fields["general.architecture"].contents()
    new = values.get("general.architecture", old)
    writer = gguf.GGUFWriter(target, new)
    for field in reader.fields.values():
        name = re.sub(rf"^{old}\.", f"{new}.", field.name)
        if not name.startswith("GGUF.") and name not in ("general.architecture", *values):
            kind, *items = field.types
            writer.add_key_value(name, field.contents(), kind, items[0] if items else None)
    for name, value in values.items():
        if value is not None and name != "general.architecture":
            _add(writer, name, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    return finish(writer, target)


def finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    adders = {
        list: writer.add_array,
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
    }
    adders[type(value)](name, value)
