"""A machine that lacks Ray - one with a GPU and little else - can run all tests but those of what it lacks."""

from importlib.util import find_spec

import pytest

collect_ignore = [] if find_spec("ray") and find_spec("optuna") else ["cluster"]
if not find_spec("pyarrow"):
    collect_ignore += ["data/test_sources.py", "train/test_suspects.py", "reports/test_suspects.py"]


@pytest.fixture
def double_precision():
    """New tensors are float64 and drawn from seed 0."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
