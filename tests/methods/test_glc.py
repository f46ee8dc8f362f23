"""GLC and Forward: the corrected loss against a closed form, the estimates against known matrices, the phases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mwray.config import ConfigError, read
from mwray.data.loader import Loader
from mwray.methods.base_model import BaseModel
from mwray.methods.forward import anchor_transition
from mwray.methods.forward_loss import corrected_losses
from mwray.methods.glc import estimate_corruption
from mwray.methods.settings import BaseModelSettings, ForwardSettings, GLCSettings
from mwray.methods.steps import union_mean
from tests.methods.meta_batches import check_resume, check_two_workers, meta_batch, run
from tests.methods.setups import batches, make_setup, parameters, started


def random_transition(classes: int, seed: int = 0) -> torch.Tensor:
    draws = torch.rand(classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (draws + 3 * torch.eye(classes)).softmax(1)


def test_corrected_loss_is_the_log_of_the_probability_sent_through_the_matrix():
    logits = torch.randn(7, 4, dtype=torch.float64)
    transition, y = random_transition(4), torch.tensor([0, 1, 2, 3, 3, 2, 1])
    expected = -(logits.softmax(1) @ transition).gather(1, y[:, None])[:, 0].log()
    torch.testing.assert_close(corrected_losses(logits, y, transition), expected)


def test_with_the_identity_it_is_cross_entropy_and_extreme_logits_stay_finite():
    logits, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    torch.testing.assert_close(corrected_losses(logits, y, torch.eye(3)), F.cross_entropy(logits, y, reduction="none"))
    far = torch.tensor([[200.0, -200.0, -200.0]], requires_grad=True)
    loss = corrected_losses(far, torch.tensor([1]), torch.eye(3)).sum()
    loss.backward()
    assert loss.isfinite()
    assert far.grad.isfinite().all()


def test_its_minimum_is_the_true_class_where_cross_entropy_learns_the_noise():
    """Theorem 2 of Patrini et al.: the minimiser of the corrected loss is that of the clean one."""
    transition = torch.tensor([[0.4, 0.6], [0.1, 0.9]], dtype=torch.float64)  # class 0 is mostly called 1
    p = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)  # predicted probability of class 0
    logits = torch.stack([p, 1 - p], 1).log()

    def best(loss) -> list[float]:
        """Prediction with the smallest expected loss for each true class."""
        by_label = torch.stack([loss(logits, torch.full((999,), y)) for y in (0, 1)])
        return p[(transition @ by_label).argmin(1)].tolist()

    assert best(lambda x, y: corrected_losses(x, y, transition)) == pytest.approx([0.999, 0.001])
    assert best(lambda x, y: F.cross_entropy(x, y, reduction="none")) == pytest.approx([0.4, 0.1])


@pytest.mark.parametrize("diagonal", [0.64, 0.9])
def test_a_sample_that_can_be_learned_by_heart_still_ends_at_its_label(diagonal):
    """The theorem speaks of the expectation over labels. Of one label alone the corrected loss is least at the class
    that most often gives it - itself - so that a network which fits every label learns the wrong ones all the same.
    """
    transition = torch.full((4, 4), (1 - diagonal) / 3, dtype=torch.float64).fill_diagonal_(diagonal)
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)  # sure of class 0, rightly
    for _ in range(3000):
        (gradient,) = torch.autograd.grad(corrected_losses(logits, torch.tensor([1]), transition).sum(), logits)
        logits = (logits - gradient).detach().requires_grad_()
    assert float(logits.detach().softmax(1)[0, 1]) > 0.99


def test_anchors_are_the_likeliest_below_the_percentile():
    p = torch.linspace(0.01, 0.99, 101)
    probabilities = torch.stack([p, 1 - p], 1)
    top = anchor_transition(probabilities, 1.0)
    torch.testing.assert_close(top, torch.tensor([[0.99, 0.01], [0.01, 0.99]]))
    # 97 % of ranks 0 .. 100 is rank 97: it and all above are dropped, and rank 96 stands for the class.
    robust = anchor_transition(probabilities, 0.97)
    torch.testing.assert_close(robust[0], probabilities[96])
    torch.testing.assert_close(robust[1], probabilities[4])


def test_an_estimate_from_perfect_predictions_is_the_matrix_itself():
    setup = make_setup(noise="flip2", rate=0.4)
    truth = setup.splits.transition

    class Knows:
        """Predicts p(observed | x) exactly, by recognising the image."""

        def predict(self, x):
            known = meta_batch(setup)
            found = torch.cdist(x.flatten(1), known.x.flatten(1)).argmin(1)
            return truth[known.y[found]].clamp_min(1e-9).log().float()

    torch.testing.assert_close(estimate_corruption(Knows(), setup).double(), truth, atol=1e-6, rtol=1e-4)


def test_union_mean_counts_each_image_of_the_union_alike():
    setup = make_setup()  # 200 training images, 50 clean ones
    losses, clean = torch.rand(40), torch.rand(50)
    # An epoch has 5 batches of 40; each clean image is in all 5 of them and must count once.
    expected = (losses.sum() + clean.sum() / 5) / (40 + 50 / 5)
    torch.testing.assert_close(union_mean(setup, losses, clean), expected)


@pytest.mark.parametrize("settings", [GLCSettings(first_epochs=2), ForwardSettings(first_epochs=2)])
def test_the_first_phase_is_basemodel_and_the_second_starts_from_the_same_weights(settings):
    setup = make_setup(epochs=4, milestones=(3,))
    start = parameters(started(BaseModelSettings(), setup).classifier.network)
    method = started(settings, setup)
    base = started(BaseModelSettings(), replace(setup, learning_rate=lambda epoch: (0.1, 0.1)[epoch]))
    assert isinstance(base, BaseModel)
    run(method, setup, 2)
    run(base, setup, 2)
    torch.testing.assert_close(parameters(method.classifier.network), parameters(base.classifier.network))
    assert method.findings()[0]["phase"] == 1
    method.epoch_start(2)
    assert torch.equal(parameters(method.classifier.network), start)
    assert method.findings()[0]["phase"] == 2
    assert set(method.findings()[1]) == {"transition_estimated", "transition_true"}
    rates = []
    for epoch in range(4):
        method.epoch_start(epoch)
        rates.append(method.findings()[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.1])  # epoch 3 of 4 is never reached by a phase of two epochs
    assert 0 <= method.findings()[0]["transition_error"] <= 1


@pytest.mark.parametrize("settings", [GLCSettings(first_epochs=1), ForwardSettings(first_epochs=1)])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_resume_in_either_phase_changes_nothing(settings, stop):
    check_resume(settings, stop)


def test_the_true_matrix_beats_the_uncorrected_loss():
    """Flip noise of 55 %: the most frequent label of a class is a wrong one."""
    accuracies = {}
    for name, settings in (("base", BaseModelSettings()), ("forward", ForwardSettings(matrix="true"))):
        setup = make_setup(None, noise="flip", rate=0.55, epochs=8, lr=0.05)
        method = started(settings, setup)
        for batch in batches(setup, size=100, count=12) * 8:
            method.update(batch, None)
        test = setup.splits.test
        loader = Loader(test, setup.splits, setup.worker.device, augment=False)
        guess = method.predict(loader.normalise(loader.images)).argmax(1)
        accuracies[name] = float((guess == test.true).float().mean())
    assert accuracies["forward"] > accuracies["base"] + 0.2


@pytest.mark.parametrize("settings", [GLCSettings(first_epochs=1), ForwardSettings(first_epochs=1)])
def test_two_workers_are_one(settings):
    check_two_workers(settings)


def test_refusals_name_what_would_do():
    with pytest.raises(ConfigError, match=r"method.first_epochs: 4 epochs .* leave none of epochs=4 .* at most 3"):
        started(GLCSettings(first_epochs=4), make_setup())
    with pytest.raises(ConfigError, match=r"leave none of epochs=1 for the second; set epochs to 2 or more"):
        started(ForwardSettings(), make_setup(epochs=1))
    given = read(ForwardSettings, {"matrix": "given", "transition": [[0.9, 0.1], [0.2, 0.8]]})
    with pytest.raises(ConfigError, match="method.transition: 2 rows were given for 10 classes"):
        started(given, make_setup())
    with pytest.raises(ConfigError, match=r"row 1 must hold 2 probabilities that sum to one, and is \[0.2, 0.9\]"):
        read(ForwardSettings, {"matrix": "given", "transition": [[0.9, 0.1], [0.2, 0.9]]})
    with pytest.raises(ConfigError, match="transition goes with matrix='given'"):
        read(ForwardSettings, {"matrix": "given"})


def test_a_class_without_a_clean_image_is_refused_by_name():
    setup = make_setup()
    meta = setup.splits.meta
    kept = meta.true != 7
    cut = replace(meta, images=meta.images[kept], observed=meta.observed[kept], true=meta.true[kept])
    cut = replace(cut, index=meta.index[kept])
    with pytest.raises(
        ConfigError, match=r"data.num_meta: GLC needs a clean sample of every class.* class '7' without"
    ):
        started(GLCSettings(), replace(setup, splits=replace(setup.splits, meta=cut)))
