"""Accelerators are found in a tree that looks like /dev and /sys."""

from __future__ import annotations

import pytest

from dcmodel.devices import find_devices


def tree(root, *files, **contents):
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for number, (vendor, kind) in enumerate(contents.get("cards", ())):
        folder = root / f"sys/bus/pci/devices/0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    for number, gpu_id in enumerate(contents.get("kfd_nodes", ())):
        folder = root / f"sys/class/kfd/kfd/topology/nodes/{number}"
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(f"{gpu_id}\n")
    return root


def find(root, environ=None, platform="linux"):
    return find_devices(root, environ or {}, platform)


def test_a_machine_without_accelerators_has_none_and_no_obstacle(tmp_path):
    devices = find(tree(tmp_path, "dev/null", cards=[("0x1af4", "0x030000"), ("0x10de", "0x020000")]))
    assert devices.found == devices.obstacles == ()
    assert find(tmp_path / "nothing").found == ()


def test_nvidia_cards_are_counted(tmp_path):
    files = ("dev/nvidiactl", "dev/nvidia0", "dev/nvidia1", "dev/nvidia-uvm")
    (device,) = find(tree(tmp_path, *files)).found
    assert (device.kind, device.detail) == ("cuda", "2 x NVIDIA")


def test_nvidia_under_wsl_is_found_by_its_library(tmp_path):
    assert find(tree(tmp_path, "dev/dxg")).found == ()
    (device,) = find(tree(tmp_path, "usr/lib/wsl/lib/libcuda.so.1")).found
    assert device.kind == "cuda"


@pytest.mark.parametrize(
    ("files", "contents", "environ", "kind", "words", "command"),
    [
        ((), {"cards": [("0x10de", "0x030200")]}, {}, "cuda", "driver is not", "install the NVIDIA driver"),
        (("dev/nvidiactl",), {}, {}, "cuda", "no card", "nvidia-smi"),
        (
            ("dev/nvidiactl", "dev/nvidia0"),
            {},
            {"CUDA_VISIBLE_DEVICES": ""},
            "cuda",
            "CUDA_VISIBLE_DEVICES hides",
            "unset CUDA_VISIBLE_DEVICES",
        ),
        ((), {"cards": [("0x1002", "0x038000")]}, {}, "rocm", "no /dev/kfd", "install ROCm"),
        (("dev/kfd",), {"kfd_nodes": [0]}, {}, "rocm", "lends no card", "rocm-smi"),
        (
            ("dev/kfd",),
            {"kfd_nodes": [0, 7]},
            {"ROCR_VISIBLE_DEVICES": "-1"},
            "rocm",
            "ROCR_VISIBLE_DEVICES hides",
            "unset ROCR_VISIBLE_DEVICES",
        ),
    ],
)
def test_what_stands_in_the_way_is_said_in_words(tmp_path, files, contents, environ, kind, words, command):
    devices = find(tree(tmp_path, *files, **contents), environ)
    assert devices.found == ()
    (obstacle,) = devices.obstacles
    assert obstacle.kind == kind
    assert words in obstacle.detail
    assert obstacle.next_command.startswith(command)


def test_amd_cards_are_counted_and_processors_are_not(tmp_path):
    devices = find(tree(tmp_path, "dev/kfd", kfd_nodes=[0, 51, 52]))
    assert [(device.kind, device.detail) for device in devices.found] == [("rocm", "2 x AMD")]
    assert devices.of_kind(("cuda", "rocm")) == devices.found[0]
    assert devices.of_kind(("cuda",)) is None


def test_intel_needs_a_card_and_a_node(tmp_path):
    assert find(tree(tmp_path, "dev/dri/card0", cards=[("0x8086", "0x030000")])).found == ()
    assert find(tree(tmp_path, "dev/dri/renderD128")).found[0].kind == "xpu"


def test_a_variable_that_chooses_cards_hides_none(tmp_path):
    root = tree(tmp_path, "dev/nvidiactl", "dev/nvidia0")
    assert find(root, {"CUDA_VISIBLE_DEVICES": "0"}).found


def test_this_machine_is_looked_at_without_heavy_imports():
    devices = find_devices()
    assert all(item.kind in ("cuda", "rocm", "xpu", "mps") for item in devices.found)
    assert all(item.next_command for item in devices.obstacles)
