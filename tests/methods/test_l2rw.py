"""L2RW's weights against explicit per-sample gradients and against the double backward of the paper's Algorithm 1."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from mwray.config import ConfigError
from mwray.methods.l2rw import L2RW, clipped
from mwray.methods.settings import L2RWSettings
from mwray.worker import LocalWorker
from tests.methods.meta_batches import check_two_workers, meta_batch
from tests.methods.setups import batches, make_setup, parameters, started


def double_backward_weights(network, batch, meta, lr: float) -> torch.Tensor:
    """Algorithm 1 of Ren et al. as it is written: eps = 0, virtual step, gradient by eps, clip, divide."""
    w = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}

    def losses_at(at, pair):
        buffers = {name: b.clone() for name, b in network.named_buffers()}
        return F.cross_entropy(functional_call(network, {**buffers, **at}, (pair.x,)), pair.y, reduction="none")

    eps = torch.zeros(len(batch.y), dtype=meta.x.dtype, requires_grad=True)
    gradients = torch.autograd.grad((eps * losses_at(w, batch)).sum(), list(w.values()), create_graph=True)
    ahead = {name: w[name] - lr * g for name, g in zip(w, gradients, strict=True)}
    (by_eps,) = torch.autograd.grad(losses_at(ahead, meta).mean(), eps)
    raw = (-by_eps).clamp_min(0)
    return raw / (raw.sum() + (raw.sum() == 0))


@pytest.mark.parametrize("model", ["mlp", "small"])
def test_weights_are_those_of_double_backward(model):
    """ "small" has batch norm, "mlp" none; in float64."""
    setup = make_setup(model=model)
    method = started(L2RWSettings(), setup)
    network = method.classifier.network.double().train()
    batch, meta = (copy.copy(b) for b in (batches(setup)[0], meta_batch(setup)))
    for b in (batch, meta):
        object.__setattr__(b, "x", b.x.double())
    expected = double_backward_weights(network, batch, meta, lr=0.1)
    step = method.update(batch, meta)
    torch.testing.assert_close(step.weights / len(batch.y), expected, rtol=1e-9, atol=1e-12)
    assert 0.1 < float((expected == 0).double().mean()) < 0.9


def test_weights_are_the_clipped_inner_products_of_gradients():
    setup = make_setup()
    method = started(L2RWSettings(), setup)
    assert isinstance(method, L2RW)
    network = method.classifier.network
    batch, meta = batches(setup, size=12)[0], meta_batch(setup)

    def gradient(x, y):
        loss = F.cross_entropy(network(x), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    clean = gradient(meta.x, meta.y)
    inner = torch.stack([gradient(batch.x[i : i + 1], batch.y[i : i + 1]) @ clean for i in range(12)])
    expected = inner.clamp_min(0) / inner.clamp_min(0).sum()
    before = parameters(network)
    per_sample = torch.stack([gradient(batch.x[i : i + 1], batch.y[i : i + 1]) for i in range(12)])
    step = method.update(batch, meta)
    torch.testing.assert_close(step.weights / 12, expected, rtol=1e-4, atol=1e-7)
    # The first step of SGD with momentum is plain, with weight decay.
    moved = before - 0.1 * (expected @ per_sample + 5e-4 * before)
    torch.testing.assert_close(parameters(network), moved, rtol=1e-4, atol=1e-6)


def test_no_sample_that_agrees_means_no_weight_at_all():
    weights = clipped(torch.tensor([-1.0, -0.5, 0.0]), LocalWorker("cpu"))
    assert weights.eta.tolist() == [0.0, 0.0, 0.0]
    assert clipped(torch.tensor([-1.0, 1.0, 3.0]), LocalWorker("cpu")).eta.tolist() == [0.0, 0.25, 0.75]


def test_wrong_labels_weigh_less():
    setup = make_setup(None, epochs=4)
    method = started(L2RWSettings(), setup)
    clean = meta_batch(setup)
    train = setup.splits.train
    right = train.observed == train.true
    sums = torch.zeros(2)
    for _ in range(4):
        for batch in batches(setup):
            step = method.update(batch, clean)
            sums += torch.stack([step.weights[right[batch.index]].mean(), step.weights[~right[batch.index]].mean()])
    assert sums[0] > 1.5 * sums[1]


def test_two_workers_are_one():
    check_two_workers(L2RWSettings())


def test_a_run_without_clean_images_is_refused():
    setup = make_setup()
    empty = copy.copy(setup.splits.meta)
    for name in ("images", "observed", "true", "index"):
        object.__setattr__(empty, name, getattr(empty, name)[:0])
    object.__setattr__(setup.splits, "meta", empty)
    with pytest.raises(ConfigError, match="data.num_meta: method 'l2rw' learns from clean meta samples"):
        started(L2RWSettings(), setup)
