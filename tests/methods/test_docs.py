"""docs/methods.md names every method and variant that there is, and its example of a new one works."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from mwray.meta.settings import MetaSettings
from mwray.methods import registry
from mwray.methods.registry import METHODS
from tests.methods.meta_batches import run
from tests.methods.setups import make_setup, started

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()

IMPORTS = """
from typing import Annotated, Literal, final
import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F
from mwray.config import config
from mwray.meta.gradient import cross_entropy
from mwray.methods.base import Setup, Step
from mwray.methods.loss_method import LossMethod
from tests.methods.setups import make_setup, started
"""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_in_the_table_and_has_its_paragraph(name):
    assert TEXT.count(f"`{name}`") >= 2


def test_every_variant_is_named():
    for field in dataclasses.fields(MetaSettings):
        assert f"method.meta.{field.name}" in TEXT or field.name == "tau"


def test_the_example_of_a_new_method_works(monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 3
    assert sum(len(block.splitlines()) for block in blocks) <= 40
    names: dict = {}
    exec("\n".join([IMPORTS, *blocks]), names)
    monkeypatch.setitem(registry.METHODS, "symmetric", names["Symmetric"])
    names["test_without_the_reverse_part_it_is_cross_entropy"]()
    setup = make_setup(epochs=2)
    method = run(started(names["SymmetricSettings"](), setup), setup, 2)
    # By hand, at logits (1, 0): p = 0.731, 0.269; label 1 costs 0.1 * 1.313 + 1 * 4 * 0.731.
    loss = method.objective(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert float(loss) == pytest.approx(0.1 * 1.3133 + 4 * 0.7311, abs=1e-3)
