"""A weight net carried from one recipe to another, without Ray: who is trained on what, and the table of it."""

from __future__ import annotations

import pytest
import torch

from mwray.config import ConfigError, leaves
from mwray.methods.learned_weight_net import LearnedWeightNet, WeightNetError
from mwray.models.weight_net import WeightNet
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports.cells import find
from mwray.studies.carry import carry
from mwray.studies.plan import plan
from mwray.studies.run import run
from mwray.train.loop import train
from mwray.transfer import from_run, load, save
from mwray.worker import LocalWorker

SHORT = {"epochs": 2, "data.num_train": 300, "data.num_test": 100}


def here(trainings):
    for one in trainings:
        train(one.experiment, one.folder, worker=LocalWorker("cpu"))
    return 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("transfer")
    outcome = carry("digits", "digits-flip", root, here, seeds=1, methods=["base"], values=SHORT)
    assert outcome.failed == 0
    assert "MW-Net transferred" in outcome.text and "test accuracy at the last epoch" in outcome.text
    return root


def test_the_target_has_the_net_of_the_source_and_no_meta_images(root):
    entries = {entry.cell.row: entry for entry in find(root)}
    assert set(entries) == {"BaseModel", "MW-Net transferred"}
    frozen = entries["MW-Net transferred"].run.experiment()
    (path,) = (root / "weight-nets").iterdir()
    learned = load(path)
    assert frozen["method"]["parameters"] == learned.parameters.tolist()
    assert (frozen["data"]["num_meta"], frozen["data"]["bias"]["noise"], frozen["seed"]) == (0, "flip2", 0)
    assert learned.source["seed"] == 1000  # one data set: another split and noise
    assert learned.source["data"]["bias"]["noise"] == "uniform"
    assert entries["BaseModel"].run.experiment()["data"]["num_meta"] == 100


def test_what_is_done_is_not_done_again_and_the_trajectory_is_another_row(root):
    trained = []

    def count(trainings):
        trained.extend(one for one in trainings if Run(one.folder).state != "done")
        return here(trainings)

    carry("digits", "digits-flip", root, count, seeds=1, methods=["base"], values=SHORT, use="trajectory", scaled=True)
    (only,) = trained
    values = leaves(only.experiment)
    assert (values["method.use"], values["method.parameters"]) == ("trajectory", None)
    assert only.cells[0].row == "MW-Net transferred, trajectory, losses scaled"


def test_a_kept_weight_net_is_carried_without_learning_it_again(root, tmp_path):
    path, *_ = sorted((root / "weight-nets").iterdir())
    trained = []

    def only_list(trainings):
        trained.extend(trainings)
        return 0

    carry("digits", "digits-flip", tmp_path, only_list, seeds=2, methods=["mentornet"], values=SHORT, file=path)
    assert [t.cells[0].row for t in trained] == ["MentorNet", "MentorNet", "MW-Net transferred", "MW-Net transferred"]
    assert trained[0].cells[0].table == f"{path.stem} to digits-flip"
    assert trained[0].experiment.epochs == 2 * SHORT["epochs"]  # two phases, each as long as a plain training
    assert leaves(trained[2].experiment)["method.parameters"] == load(path).parameters.tolist()


def test_a_file_that_is_none_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "net.json").write_text("{}")
    with pytest.raises(WeightNetError, match=r"net.json cannot be used: not a weight net: JSON of another kind"):
        carry("digits", "digits-flip", tmp_path, here, seeds=1, file=tmp_path / "net.json")
    foreign = LearnedWeightNet("1-2-1", torch.zeros(7))
    with pytest.raises(ConfigError, match="does not say how many classes its source had"):
        carry("digits", "digits", tmp_path, lambda t: 0, seeds=1, scaled=True, file=save(foreign, tmp_path / "f.json"))


@pytest.mark.parametrize(
    ("source", "target"), [("cifar10-uniform", "cifar100-uniform"), ("fashion-flip", "digits-flip")]
)
def test_any_pair_of_data_sets(tmp_path, source, target):
    asked = []

    def note(trainings):
        asked.extend(trainings)
        return len(trainings)

    carry(source, target, tmp_path, note, seeds=1, methods=["mwnet"])
    learner, beside = (one.experiment for one in asked)
    assert (learner.data.source, learner.method.name, learner.seed) == (recipe(source).data.source, "mwnet", 0)
    assert beside.data.source == recipe(target).data.source


def test_a_source_that_failed_leaves_its_seed_out(tmp_path):
    outcome = carry(
        "digits", "digits-flip", tmp_path, lambda trainings: len(trainings), seeds=2, methods=[], values=SHORT
    )
    assert outcome.failed == 4  # two sources, and the two that could not be begun


def test_scaled_losses_are_the_same_function_of_the_scaled_loss():
    torch.manual_seed(0)
    net = WeightNet("1-5-3-1")
    vector = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    learned = LearnedWeightNet("1-5-3-1", vector, (0.5, 8.0), vector[None].repeat(2, 1))
    scaled = learned.scaled(0.5)
    losses = torch.linspace(0, 9, 50)
    torch.testing.assert_close(scaled.build()(losses), learned.build()(0.5 * losses))
    torch.testing.assert_close(scaled.build(0.9)(losses), learned.build(0.9)(0.5 * losses))
    assert scaled.loss_range == (1.0, 16.0)
    assert torch.equal(learned.parameters, vector)
    with pytest.raises(ValueError, match="a positive factor"):
        learned.scaled(0.0)


def test_table_6_takes_the_nets_of_its_sources(tmp_path):
    values = SHORT | {"epochs": 1}
    found = plan("6", "digits", tmp_path, seeds=1, rows=["transferred"], columns=["uniform 40"], values=values)
    assert run([found], here) == 0
    final, replayed = find(tmp_path)
    (source,) = found.trainings  # both rows take the net of one
    learned = from_run(source.folder)
    assert final.run.experiment()["method"]["parameters"] == learned.parameters.tolist()
    file = replayed.run.experiment()["method"]["file"]
    assert load(found.root / "weight-nets" / file).trajectory.equal(learned.trajectory)
    assert (final.run.state, replayed.run.state) == ("done", "done")
