"""D2L: the dimension of known clouds, the turning point on known curves, going back, and blending."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from mwray.config import ConfigError, read
from mwray.methods.d2l import trust, turns
from mwray.methods.lid import local_intrinsic_dimension
from mwray.methods.settings import BaseModelSettings, D2LSettings
from tests.methods.setups import batches, make_setup, same, started


def ball(dimension: int, count: int) -> torch.Tensor:
    """Points drawn evenly from the unit ball."""
    generator = torch.Generator().manual_seed(dimension)
    directions = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    radius = torch.rand(count, 1, generator=generator, dtype=torch.float64) ** (1 / dimension)
    return directions / directions.norm(dim=1, keepdim=True) * radius


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_points_of_an_even_ball_have_its_dimension(dimension):
    # Within half the radius: neighbours do not reach the edge.
    points = ball(dimension, 4000)
    inner = points.norm(dim=1) < 0.5
    lids = local_intrinsic_dimension(points, 20)[inner]
    assert len(lids) > 50
    expected = dimension * 20 / 18  # E[k / Gamma(k - 1, d)] = d k / (k - 2)
    assert float(lids.mean()) == pytest.approx(expected, rel=0.12)


def test_a_plane_in_many_dimensions_is_a_plane():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(50, 50, generator=generator, dtype=torch.float64)).Q[:2]
    flat = ball(2, 1000)
    torch.testing.assert_close(local_intrinsic_dimension(flat @ basis, 20), local_intrinsic_dimension(flat, 20))


def test_the_estimate_is_the_formula_on_neighbours_found_by_another_library():
    points = ball(3, 100)
    distances = NearestNeighbors(n_neighbors=11).fit(points.numpy()).kneighbors(points.numpy())[0][:, 1:]
    expected = [-10 / sum(math.log(r / row[-1] + 1e-8) for r in row) for row in distances]
    torch.testing.assert_close(local_intrinsic_dimension(points, 10), torch.tensor(expected, dtype=torch.float64))


def test_too_few_points_and_copies_of_one_point():
    with pytest.raises(ValueError, match="20 neighbours need at least 21 points, and there are 20"):
        local_intrinsic_dimension(ball(2, 20), 20)
    assert not local_intrinsic_dimension(torch.ones(8, 3), 4).isfinite().any()
    twice = torch.cat([ball(2, 50), ball(2, 50)])
    assert local_intrinsic_dimension(twice, 20).isfinite().all()


def test_the_turning_point_is_the_first_epoch_two_deviations_above_its_window():
    falling = [9.0, 7.0, 6.0, 5.0, 4.9, 5.1, 5.0, 4.9, 5.1]  # window mean 5, sd sqrt(0.008)
    assert not turns([*falling, 5.1], 2, 5)
    assert turns([*falling, 5.3], 2, 5)
    assert not turns([*falling, 5.3], 5, 5)  # too early: 10 values are not more than 5 + 5
    assert turns([*falling, 5.0, 5.4], 5, 5)


def test_trust_falls_with_time_and_with_dimension():
    assert trust([4.0, 2.0, 3.0], 10, 40) == pytest.approx(math.exp(-10 / 40 * 3 / 2))
    assert trust([4.0, 2.0], 0, 40) == 1.0


def turning(setup):
    """A method whose next epoch is the turning point, what it was an epoch ago, and now."""
    method = started(D2LSettings(init_epochs=0, window=2), setup)
    snapshots = []
    for epoch in (0, 1):
        if epoch:
            method.epoch_start(epoch)
        snapshots.append(copy.deepcopy(method.classifier.state()))
        for batch in batches(setup):
            method.update(batch, None)
        method.epoch_end(epoch)
    method.lids = [1e-6, 1e-6]  # whatever is measured next lies above these
    return method, snapshots[1]


def test_at_the_turning_point_the_network_goes_back_an_epoch_and_labels_are_blended():
    setup = make_setup(epochs=8, milestones=(2,))
    method, before = turning(setup)
    assert not same(method.classifier.state()["network"], before["network"])
    method.epoch_start(2)
    assert method.turning_epoch == 3
    assert same(method.classifier.state()["network"], before["network"])
    assert method.classifier.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)  # not the rate of an epoch ago
    assert method.alpha == pytest.approx(math.exp(-2 / 8 * method.lids[-1] / 1e-6))
    method.set_trust(0.25)
    reference = setup.make_model("init")
    reference.load_state_dict(method.classifier.network.state_dict())
    batch = batches(setup)[0]
    logits = reference(batch.x)
    target = 0.25 * torch.nn.functional.one_hot(batch.y, 10) + 0.75 * torch.nn.functional.one_hot(logits.argmax(1), 10)
    expected = torch.autograd.grad(-(target * logits.log_softmax(1)).sum(1).mean(), list(reference.parameters()))
    method.update(batch, None)
    for parameter, gradient in zip(method.classifier.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_resume_right_before_the_turning_point_turns_to_the_same_bits(tmp_path):
    setup = make_setup(epochs=8)
    method, _ = turning(setup)
    torch.save(method.state(), tmp_path / "state.pt")
    resumed = started(D2LSettings(init_epochs=0, window=2), setup)
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (method, resumed):
        each.epoch_start(2)
        each.update(batches(setup)[1], None)
    assert method.turning_epoch == resumed.turning_epoch == 3
    assert same(method.state(), resumed.state())


def test_without_a_turning_point_it_is_basemodel():
    setup = make_setup(model="small")
    ours, base = started(D2LSettings(init_epochs=100), setup), started(BaseModelSettings(), setup)
    for epoch in range(3):
        for method in (ours, base):
            method.epoch_start(epoch)
            for batch in batches(setup):
                method.update(batch, None)
            method.epoch_end(epoch)
    assert same(ours.state()["classifier"], base.state())


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ConfigError, match="method.neighbours: 25 neighbours cannot be found among 20 samples"):
        started(D2LSettings(neighbours=25), make_setup(num_train=20))
    with pytest.raises(ConfigError, match="lid_batch is 20, and 20 neighbours need at least 21"):
        read(D2LSettings, {"lid_batch": 20})
