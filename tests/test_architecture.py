"""Rules that keep the tree readable, checked by a machine: who imports whom, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mwray"
FILES = sorted(PACKAGE.rglob("*.py"))

# A package may import those named after it (docs/architecture.md has the picture).
ALLOWED = {
    "errors": set(),
    "setting_tree": set(),
    "config": {"setting_tree"},
    "seeding": set(),
    "worker": set(),
    "overlap": set(),
    "process_group": {"overlap", "worker"},
    "storage": set(),
    "lock": {"storage"},
    "records": {"storage"},
    "optim": {"config"},
    "imported": {"config"},
    "data": {"config", "seeding", "imported"},
    "models": {"config", "worker", "imported"},
    "meta": {"config", "worker", "models", "optim"},
    "methods": {"config", "seeding", "worker", "data", "models", "meta", "optim"},
    "pack": {"data", "models", "meta", "methods"},
    "experiment": {"config", "data", "models", "methods", "optim"},
    "recipes": {"config", "data", "experiment", "meta", "methods", "models", "optim"},
    "space": {"config", "experiment", "recipes"},
    "reports": {"config", "records"},
    "transfer": {"config", "records", "methods", "models", "train", "data", "experiment"},
    "studies": {
        "transfer",
        "train",
        "config",
        "experiment",
        "recipes",
        "records",
        "reports",
        "methods",
        "meta",
        "data",
        "models",
        "optim",
    },
    "train": {
        "config",
        "seeding",
        "worker",
        "storage",
        "lock",
        "records",
        "data",
        "models",
        "methods",
        "pack",
        "experiment",
        "reports",
    },
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, also inside functions, but not those for type checking alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def owner(path: Path) -> str:
    """The part of the package that a file belongs to: "data", "config", ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_what_lies_below_it(path):
    part = owner(path)
    if part not in ALLOWED:
        return  # cli, cluster and the package itself stand above all
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("mwray.")}
    assert not (beyond := inner - {part, "errors"} - ALLOWED[part]), f"{path} imports {sorted(beyond)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_cluster_package_knows_ray_and_only_config_knows_pydantic(path):
    outer = {name.split(".")[0] for name in imports(path)}
    if owner(path) != "cluster":
        assert not outer & {"ray", "optuna"}
    if owner(path) != "config":
        assert "pydantic" not in outer


@pytest.mark.parametrize("path", [*FILES, *sorted(ROOT.glob("tests/**/*.py"))], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_grows_beyond_what_can_be_read_at_once(path):
    assert len(path.read_text().splitlines()) <= 350


def test_every_package_has_a_docstring():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_training_needs_neither_ray_nor_arrow_nor_torchvision():
    """As on a GPU's machine that has PyTorch and little else (docs/gpu.md)."""
    code = """
import importlib, sys
sys.modules |= dict.fromkeys(("ray", "optuna", "pyarrow", "torchvision", "timm", "safetensors"))
for name in ("estimator", "train.loop", "train.pack", "train.predictions", "train.suspects", "cli_train", "meta.step"):
    importlib.import_module(f"mwray.{name}")
importlib.import_module("benchmarks.gpu")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
