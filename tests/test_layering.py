"""Imports go down the floors of the design; what must stay light names no torch."""

import ast
from pathlib import Path

import pytest

import qscale

ROOT = Path(qscale.__file__).parent

#: From the table in design.md. A package imports itself and lower floors.
FLOORS = {
    "bounded": 0,
    "errors": 0,
    "records": 0,
    "units": 0,
    "formats": 1,
    "laws": 2,
    "planning": 3,
    "kernels": 4,
    "quantizers": 5,
    "timing": 5,
    "models": 6,
    "data": 6,
    "training": 7,
    "ptq": 7,
    "sweep": 8,
    "report": 9,
    "cli": 10,
    "__main__": 11,
}

#: Files of sweep that train and quantize; the second is imported by the first alone, inside a function.
REACH_TRAINING = ("sweep/worker.py", "sweep/post_training.py")
#: Packages and modules that a laptop without torch can use.
TORCH_FREE = (
    "__init__.py",
    "bounded.py",
    "errors.py",
    "records.py",
    "units.py",
    "formats",
    "laws",
    "planning",
    "sweep",
    "cli",
    "training/__init__.py",
    "training/config.py",
    "training/defaults.py",
    "training/losses.py",
    "training/paths.py",
    "models/__init__.py",
    "models/configfile.py",
    "models/families",
    "models/ladder.py",
    "data/__init__.py",
    "data/corpus.py",
    "data/tokenizer.py",
)
TORCH = ("torch", "transformers", "safetensors", "accelerate")

#: What sweep may know of training; only the worker trains.
LIGHT_TRAINING = (
    "qscale.training.config",
    "qscale.training.defaults",
    "qscale.training.losses",
    "qscale.training.paths",
)


def imports(source, name):
    """(line, module, at module level) of every import in a source text."""
    tree = ast.parse(source, name)
    deferred = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _type_checking(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) not in deferred
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: write imports from the top"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}", id(node) not in deferred


def _type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def breaches(source, name):
    """Every import of one file that the floors do not allow, as ``file:line: what``."""
    package = Path(name).parts[0].removesuffix(".py")
    if package == "__init__":  # public names, resolved on first use
        return
    for line, module, _ in imports(source, name):
        parts = module.split(".")
        if parts[0] != "qscale" or len(parts) < 2 or parts[1] == package:
            continue
        floor, other = FLOORS[package], FLOORS.get(parts[1], -1)
        if other >= floor and parts[1] not in ("bounded", "errors"):  # what records on floor 0 needs
            yield f"{name}:{line}: {package} imports {module}, floor {floor} from {other}"
        trains = parts[1] == "training" and not module.startswith(LIGHT_TRAINING)
        if package == "sweep" and trains and name not in REACH_TRAINING:
            yield f"{name}:{line}: only {' and '.join(REACH_TRAINING)} may import {module}"


def torch_at_import(source, name):
    """Imports of torch and its kin that happen when a module is imported."""
    for line, module, at_module_level in imports(source, name):
        if at_module_level and module.split(".")[0] in TORCH:
            yield f"{name}:{line}: imports {module} when it is imported"


def sources(*below):
    for start in below or (".",):
        path = ROOT / start
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            yield file.read_text(), file.relative_to(ROOT).as_posix()


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages <= FLOORS.keys()


def test_imports_go_down():
    found = [breach for source, name in sources() for breach in breaches(source, name)]
    assert not found, "\n".join(found)


def test_light_modules_import_no_torch():
    found = [breach for source, name in sources(*TORCH_FREE) for breach in torch_at_import(source, name)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (
            "laws/fit.py",
            "from qscale.kernels import fake_quant",
            "laws/fit.py:1: laws imports qscale.kernels.fake_quant, floor 2 from 4",
        ),
        ("formats/spec.py", "def f():\n    import qscale.laws", "formats/spec.py:2"),
        ("models/a.py", "from qscale.data import corpus", "models/a.py:1"),
        (
            "sweep/grid.py",
            "def f():\n    from qscale.training import loop",
            "only sweep/worker.py and sweep/post_training.py may import",
        ),
        ("errors.py", "import qscale.records", "errors.py:1"),
    ],
)
def test_an_import_that_goes_up_is_found(name, source, message):
    (found,) = breaches(source, name)
    assert message in found


def test_an_import_of_torch_is_found_at_module_level_only():
    source = "import torch.nn\ndef f():\n    import torch\nif TYPE_CHECKING:\n    import torch\n"
    assert list(torch_at_import(source, "x.py")) == ["x.py:1: imports torch.nn when it is imported"]
