"""The house rules that docs/architecture.md states, held over the source by its syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 400
MAX_IMPORT_SECONDS = 0.3
HEAVY = (
    *("torch", "transformers", "openai", "llguidance", "lark", "numpy", "tokenizers", "tqdm", "asyncio"),
    *("jsonschema_rs", "msgspec", "lm_eval", "datasets", "jinja2", "llama_cpp", "gguf"),
)

ROWS = re.findall(
    r"^\| (\d) \| ([^|]+) \|", (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.MULTILINE
)
LAYERS = {
    name.removesuffix("/*"): int(number)
    for number, names in ROWS
    for name in re.findall(r"`([\w/*]+)`", names)
}
"""Top-level module or package -> layer, as the table of the document has it."""


def source_files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "tokenizers" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


DCMODEL = source_files("dcmodel")
BACKENDS = source_files("lmql_backends")
TOKENIZERS = source_files("tokenizers/dctokenizers")
MODULES = {module_name(path): path for path in (*DCMODEL, *BACKENDS, *TOKENIZERS)}


def imported(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Our modules that a file imports; those under TYPE_CHECKING only with ``at_run_time=False``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for branch in ast.walk(tree)
        if at_run_time and isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else str(node.module) for name in names)


def layer(module: str) -> int:
    top = module.split(".")[1]
    assert top in LAYERS, f"{module} has no layer: give it one in docs/architecture.md"
    return LAYERS[top]


@pytest.mark.parametrize("path", DCMODEL, ids=module_name)
def test_lower_layers_never_import_higher_ones(path):
    module = module_name(path)
    if module == "dcmodel":
        return  # the public names, imported on demand
    for name in imported(path, at_run_time=False):
        assert not name.startswith("lmql_backends"), f"{module} imports {name}: use an entry point"
        if name.startswith("dcmodel.") and name in MODULES:
            assert layer(name) <= layer(module), f"{module} (layer {layer(module)}) imports {name}"


def test_every_module_of_the_table_is_there():
    modules = {module_name(path).split(".")[1] for path in DCMODEL if module_name(path) != "dcmodel"}
    assert modules | {"dctokenizers"} == set(LAYERS)


def test_dctokenizers_imports_nothing_of_ours():
    for path in TOKENIZERS:
        for name in imported(path, at_run_time=False):
            assert not name.startswith(("dcmodel", "lmql_backends")), f"{path} imports {name}"


MAY_IMPORT = {
    "transformers": ("torch_rows",),
    "vllm": ("torch_rows",),
    "replicate": ("lmtp",),
    "ray_serve": ("lmtp",),
}
"""As docs/architecture.md has it."""


def test_a_backend_imports_no_other_backend():
    for path in BACKENDS:
        own = module_name(path).split(".")[:2]
        for name in imported(path, at_run_time=False):
            parts = name.split(".")
            if parts[0] == "lmql_backends" and len(parts) > 1:
                assert parts[1] in (own[1], *MAY_IMPORT.get(own[1], ())), f"{path} imports {name}"


def test_there_is_no_import_cycle():
    graph = {
        module: {name for name in imported(path) if name in MODULES and name not in (module, "dcmodel")}
        for module, path in MODULES.items()
        if module != "dcmodel"
    }
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES.values(), ids=module_name)
def test_a_module_fits_in_the_head(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_library_code_does_not_print():
    for path in MODULES.values():
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


def test_public_signatures_have_no_loose_keyword_arguments():
    """``**options: Unpack[...]`` names and types each of them."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.args.kwarg is None:
                continue
            if node.name.startswith("_") and node.name != "__init__":
                continue
            annotation = node.args.kwarg.annotation
            assert annotation is not None, f"{path}: {node.name}"
            assert ast.unparse(annotation) != "Any", f"{path}: {node.name}"


def test_the_folder_of_the_tokenizers_shadows_nothing():
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_dcmodel_is_light():
    program = f"import sys, dcmodel; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(program).strip() == "[]"


def test_importing_dcmodel_takes_no_time():
    # Of this process's own time: what runs beside it does not count.
    program = "import time; began = time.process_time(); import dcmodel; print(time.process_time() - began)"
    assert min(float(run_python(program)) for _ in range(3)) < MAX_IMPORT_SECONDS


def test_the_interface_itself_imports_no_engine():
    program = (
        "import sys, dcmodel; dcmodel.LLM; dcmodel.Regex; from dcmodel.registry import Registry;"
        "[Registry().status(name) for name in Registry().names()];"
        "print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])"
    )
    assert run_python(program).strip() == "[]"
