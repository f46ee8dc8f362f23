"""Studies: as the paper has them, laid out as runs that tables share, in two parts where a weight net is carried."""

from __future__ import annotations

import json

import pytest

from mwray.config import ConfigError, leaves, override, to_dict
from mwray.recipes import digits, paper
from mwray.records import Run
from mwray.reports.cells import find
from mwray.reports.published import IMBALANCE, TABLES, TRANSFERRED
from mwray.studies.plan import Plan, folder_name, plan, prepare, variant
from mwray.studies.presets import PRESETS, Bias, stretch
from mwray.studies.run import run
from mwray.studies.tables import STUDIES, cui, long, two_phases


@pytest.mark.parametrize("name", ["1", "2", "3", "5", "6"])
def test_every_row_and_column_of_the_paper_is_in_its_study(name):
    study, table = STUDIES[name], TABLES[name]
    assert set(table.rows) <= {row.name for row in study.rows}
    assert {row.beside for row in study.rows} - {""} <= set(table.rows)
    columns = {f"{dataset}, {bias}" for dataset, bias in study.columns(PRESETS["paper"])}
    assert columns == set(map(str, table.columns))


def of(found: Plan) -> dict[tuple[str, str, int], dict[str, object]]:
    return {
        (cell.row, str(cell.column), cell.seed): leaves(training.experiment)
        for training in found.trainings
        for cell in training.cells
    }


def test_cells_of_the_paper_have_the_paper_s_protocol(tmp_path):
    cells = of(plan("3", "paper", tmp_path, seeds=2, rows=["MW-Net", "GLC"], columns=["CIFAR-100 40"]))
    assert set(cells) == {(row, "CIFAR-100, flip 40 %", seed) for row in ("MW-Net", "GLC") for seed in (0, 1)}
    mine = cells["MW-Net", "CIFAR-100, flip 40 %", 1]
    assert mine["data.source"] == "cifar100" and mine["seed"] == 1
    assert (mine["data.bias.noise"], mine["data.bias.rate"], mine["data.num_meta"]) == ("flip2", 0.4, 1000)
    assert (mine["model.name"], mine["epochs"], mine["optimizer.milestones"]) == ("resnet32", 60, [40, 50])
    assert mine["method.weight_net.shape"] == "1-100-1"
    glc = cells["GLC", "CIFAR-100, flip 40 %", 0]  # each of its phases is a whole training
    assert (glc["epochs"], glc["optimizer.milestones"]) == (120, [80, 100])


def test_long_tails_have_ten_clean_images_a_class(tmp_path):
    cells = of(plan("1", "paper", tmp_path, seeds=1, rows=["MW-Net"], columns=["imbalance 200"]))
    assert {k[1]: (v["data.num_meta"], v["data.bias.imbalance"]) for k, v in cells.items()} == {
        "CIFAR-10, imbalance 200": (100, 200.0),
        "CIFAR-100, imbalance 200": (1000, 200.0),
    }


def test_the_schedules_that_the_paper_s_own_rows_have():
    start = paper.paper()
    assert (long(start).epochs, long(start).optimizer.milestones) == (120, (80, 100))
    theirs = cui(stretch(start, 100))
    assert (theirs.epochs, theirs.batch_size, theirs.optimizer.milestones) == (200, 128, (160, 180))
    assert (theirs.optimizer.factor, theirs.optimizer.weight_decay, theirs.data.num_meta) == (0.01, 2e-4, 0)
    assert two_phases(start).optimizer.milestones == (72, 76)


def test_another_optimiser_or_schedule_keeps_its_own_course_in_every_protocol():
    """Drops belong to steps, and Cui et al.'s weight decay to their SGD; a warm-up moves along as drops do."""
    cosine = override(digits.uniform(), {"optimizer.schedule": "cosine", "optimizer.warm_up": 4})
    for schedule, epochs, warm_up in ((two_phases, 80, 8), (long, 120, 12), (cui, 80, 8)):
        found = schedule(cosine)
        assert (found.epochs, found.optimizer.warm_up) == (epochs, warm_up)
        assert (found.optimizer.schedule, found.optimizer.milestones) == ("cosine", ())
    assert cui(cosine).optimizer.weight_decay == 2e-4
    adamw = override(digits.uniform(), {"optimizer.name": "adamw"})
    assert (cui(adamw).optimizer.weight_decay, cui(adamw).optimizer.milestones) == (0.01, (64, 72))
    assert long(adamw).optimizer.milestones == (80, 100)
    assert stretch(cosine, 2).optimizer.warm_up == 0 and stretch(cosine, 10).optimizer.warm_up == 1


def test_a_stretched_schedule_drops_as_far_through():
    start = digits.uniform()  # 40 epochs, drops at 30 and 36
    assert stretch(start, 20).optimizer.milestones == (15, 18)
    assert stretch(start, 3).optimizer.milestones == (2,)
    assert stretch(start, 1).optimizer.milestones == ()
    assert stretch(start, 40) == start
    assert cui(stretch(start, 2)).optimizer.milestones == (3,)
    assert long(stretch(start, 1)).optimizer.milestones == (2,)


def test_tables_share_their_runs(tmp_path):
    third = plan("3", "digits", tmp_path, seeds=1, rows=["MW-Net"], columns=["40"])
    fifth = plan("5", "digits", tmp_path, seeds=1, rows=["1-100-1"], columns=["flip 40"])
    assert [t.folder for t in third.trainings] == [t.folder for t in fifth.trainings]
    prepare((*third.trainings, *fifth.trainings))
    assert {(e.cell.table, e.cell.row) for e in find(tmp_path)} == {("3", "MW-Net"), ("5", "1-100-1")}


def test_no_noise_is_one_experiment_whatever_its_kind():
    digit = PRESETS["digits"]
    assert digit.experiment("digits", Bias.of("uniform 0 %")) == digit.experiment("digits", Bias.of("flip 0 %"))
    assert folder_name(digits.uniform()).startswith("digits-uniform_40-small-mwnet-net1-100-1-seed0-")


def test_what_digits_cannot_give_is_left_out_and_named(tmp_path):
    found = plan("1", "digits", tmp_path, seeds=1, rows=["BaseModel"])
    assert found.impossible == ("digits, imbalance 200",)
    assert len(found.trainings) == len(IMBALANCE) - 1


def test_other_settings_are_another_study(tmp_path):
    found = plan(
        "3", "digits", tmp_path, seeds=1, rows=["MW-Net"], columns=["40"], values={"epochs": 20, "method.meta.every": 5}
    )
    assert (
        found.preset
        == variant("digits", {"epochs": 20, "method.meta.every": 5})
        == "digits+epochs=20+method.meta.every=5"
    )
    ((_, mine),) = of(found).items()
    assert (mine["epochs"], mine["optimizer.milestones"], mine["method.meta.every"]) == (20, [15, 18], 5)
    assert found.root == tmp_path / found.preset


def test_the_reduced_size_leaves_an_image_of_every_class(tmp_path):
    found = plan("1", "reduced", tmp_path, seeds=1, rows=["MW-Net"])
    for (_, column, _), values in of(found).items():
        classes = 100 if "CIFAR-100" in column else 10
        largest = values["data.num_train"] / classes
        assert largest / values["data.bias.imbalance"] >= 1, column
        assert values["data.num_meta"] >= classes
        assert (values["model.name"], values["data.augment"], values["batch_size"]) == ("resnet8", False, 50)
    noise = of(plan("3", "reduced", tmp_path, seeds=1, rows=["MW-Net"], columns=["CIFAR-10 40"]))
    ((_, values),) = noise.items()
    assert (values["data.num_train"], values["epochs"], values["optimizer.milestones"]) == (2000, 30, [20, 25])
    assert values["method.weight_net.optimizer"] == "adam"


def test_figure_4_has_every_bias_on_both_networks(tmp_path):
    found = plan("figure 4", "digits", tmp_path, seeds=1, rows=["BaseModel"])
    assert {k[1]: v["model.name"] for k, v in of(found).items()} == {
        f"digits, flip {rate} % ({network})": network for rate in (20, 40) for network in ("small", "mlp")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": "33"}, r"--table '33' is not known\. Did you mean '3'\?"),
        ({"preset": "digit"}, r"--preset 'digit' is not known\. Did you mean 'digits'\?"),
        ({"rows": ["MW-Nett"]}, r"--rows 'MW-Nett' is not in table 3\. Did you mean 'MW-Net'\?"),
        ({"columns": ["60"]}, r"--columns '60' is not in table 3"),
        ({"values": {"epoch": 3}}, r"epoch: there is no such field\. Did you mean 'epochs'\?"),
        ({"values": {"method.weight_net.shap": "1-5-1"}}, r"Did you mean 'method.weight_net.shape'\?"),
        ({"values": {"epochs": -1}}, r"epochs: -1 was given"),
        ({"values": {"method.name": "base"}}, r"--set method.name: --rows chooses it"),
        ({"values": {"seed": 3}}, r"--set seed: --seeds chooses it"),
        ({"values": {"data.bias.rate": 0.2}}, r"--set data.bias.rate: --columns chooses it"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan(**({"table": "3", "preset": "digits", "root": tmp_path, "seeds": 1} | arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["imbalance 100 %", "flip 40", "twist 40 %", "", "uniform x %"])
def test_a_bias_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="is not a bias"):
        Bias.of(text)


def finish(training):
    record = Run(training.folder)
    record.start(to_dict(training.experiment), {}, 0)
    record.finish({"test.last": 0.9, "epochs": training.experiment.epochs, "seconds": 10.0})


def test_a_study_goes_on_from_what_is_there_and_counts_failures(tmp_path):
    found = plan("3", "digits", tmp_path, seeds=2, rows=["BaseModel"], columns=["40"])
    seen = []

    def train(trainings):
        seen.append([t for t in trainings if Run(t.folder).state != "done"])
        finish(trainings[0])
        return 1

    assert run([found], train) == 1
    assert run([found], train) == 1
    assert [len(missing) for missing in seen] == [2, 1]
    assert json.loads(next(found.trainings[0].folder.glob("cell-*.json")).read_text())["row"] == "BaseModel"


def test_a_weight_net_waits_for_its_source_and_is_part_of_the_fingerprint(tmp_path):
    found = plan("6", "digits", tmp_path, seeds=1, rows=[TRANSFERRED], columns=["flip 40"])
    (pending,) = found.pending
    assert found.total == 2
    assert pending.source.experiment.seed == 1000 and pending.source.cells == ()
    assert run([found], lambda trainings: len(trainings)) == 2  # its source failed, so it could not be begun
    shape, parameters = "1-2-1", [0.5] * 7
    training = pending.training(shape, parameters, "net.json")
    values = leaves(training.experiment)
    assert (values["method.name"], values["method.parameters"], values["data.num_meta"]) == ("frozen", parameters, 0)
    assert training.folder != pending.training(shape, [0.25] * 7, "net.json").folder
    assert training.cells[0].row == TRANSFERRED and values["seed"] == 0


def test_a_trajectory_is_known_by_the_name_of_its_file(tmp_path):
    found = plan("6", "digits", tmp_path, seeds=1, rows=["transferred trajectory"], columns=["flip 40"])
    (pending,) = found.pending
    training = pending.training("1-2-1", [0.5] * 7, "abc.json")
    values = leaves(training.experiment)
    assert (values["method.use"], values["method.file"], values["method.parameters"]) == (
        "trajectory",
        "abc.json",
        None,
    )
    assert training.cells[0].beside == TRANSFERRED
    elsewhere = plan("6", "digits", tmp_path / "b", seeds=1, rows=["transferred trajectory"], columns=["flip 40"])
    assert elsewhere.pending[0].training("1-2-1", [0.5] * 7, "abc.json").folder.name == training.folder.name


def test_the_released_programs_as_recipes():
    pgc, stable, tail = (leaves(f()) for f in (paper.official_pgc, paper.official_stable, paper.official_lt))
    assert (pgc["epochs"], pgc["optimizer.nesterov"], pgc["method.meta.weight_map"]) == (41, True, "normalized")
    assert (stable["epochs"], stable["method.meta.weight_map"], stable["method.weight_net.optimizer"]) == (
        120,
        "mean",
        "adam",
    )
    assert (tail["method.weight_net.lr"], tail["method.meta.input"], tail["data.num_meta"]) == (1e-5, "through", 100)
