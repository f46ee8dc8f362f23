import io
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.summary.writer import event_file_writer

from mwray.train.sinks import TensorBoardSink
from mwray.train.sinks.tensorboard import plain, said_first, tag
from tests.train.runs import SUMMARY, info, tell, values


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files of one second are read in the order of a counter's text, where "10" precedes "9": begin at 0."""
    counter = type(event_file_writer._global_uid)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter(0))


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def steps(events: EventAccumulator, name: str) -> list[int]:
    return [event.step for event in events.Scalars(name)]


def table(folder: Path) -> tuple[api_pb2.Experiment, list[api_pb2.SessionGroup]]:
    """Columns and rows of the HParams page, as TensorBoard's own plugin makes them."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = base_plugin.TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))
    backend = backend_context.Context(context)
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        include_metrics=True,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS],
    )
    ctx = RequestContext()
    rows = list_session_groups.Handler(ctx, backend, "", request).run().session_groups
    metadata = backend.hparams_metadata(ctx, "")
    columns = backend.experiment_from_metadata(ctx, "", True, metadata, [])
    return columns, list(rows)


def metrics(row: api_pb2.SessionGroup) -> dict[str, float]:
    return {value.name.tag: value.value for value in row.metric_values}


def test_scalars_are_grouped_into_panels(tmp_path: Path) -> None:
    tell(TensorBoardSink(), tmp_path, [1, 2, 3, 4])
    events = read(tmp_path)
    assert steps(events, "accuracy/test") == [1, 2, 3, 4]
    assert [event.value for event in events.Scalars("accuracy/test")] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    epoch = set(events.Tags()["scalars"])
    final = {"final/test_last", "final/test_best", "final/test_last5"}
    assert epoch - final == {tag(name) for name in values(1) if name != "epoch"}
    assert final < epoch
    assert [(event.step, event.value) for event in events.Scalars("final/test_last")] == [(4, pytest.approx(0.4))]


def test_resumed_run_has_every_epoch_once(tmp_path: Path) -> None:
    tell(TensorBoardSink(), tmp_path, [1, 2, 3], finish=False)
    tell(TensorBoardSink(), tmp_path, [3, 4])
    events = read(tmp_path)
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert steps(events, "accuracy/test") == [1, 2, 3, 4]
    assert [event.step for event in events.Images("confusion/test")] == [4]  # the one of epoch 3 is drawn anew


def test_run_started_from_the_beginning_forgets_the_old_points(tmp_path: Path) -> None:
    tell(TensorBoardSink(), tmp_path, [1, 2], finish=False)
    tell(TensorBoardSink(), tmp_path, [1], finish=False)
    assert steps(read(tmp_path), "accuracy/test") == [1]


def test_pictures_decode(tmp_path: Path) -> None:
    tell(TensorBoardSink(every=0), tmp_path, [1, 2])
    events = read(tmp_path)
    assert set(events.Tags()["images"]) == {"weights/curve", "weights/histogram", "confusion/test"}
    for name in events.Tags()["images"]:
        for event in events.Images(name):
            image = Image.open(io.BytesIO(event.encoded_image_string))
            image.load()
            assert image.size == (event.width, event.height)
            assert image.width > 400


def test_running_trial_is_in_the_table(tmp_path: Path) -> None:
    sink = TensorBoardSink()
    sink.start(info(tmp_path / "a"))
    sink.write(1, values(1), {})
    _, rows = table(tmp_path)
    sink.close()
    (row,) = rows
    assert row.sessions[0].status != api_pb2.STATUS_SUCCESS
    assert metrics(row)["accuracy/test"] == pytest.approx(0.1)


def test_table_has_one_row_per_run(tmp_path: Path) -> None:
    tell(TensorBoardSink(), tmp_path / "a", [1, 2, 3, 4])
    tell(TensorBoardSink(), tmp_path / "b", [1, 2], finish=False)
    tell(TensorBoardSink(), tmp_path / "b", [3, 4])
    _, rows = table(tmp_path)
    assert sorted(row.name for row in rows) == ["a", "b"]
    assert all(row.sessions[0].status == api_pb2.STATUS_SUCCESS for row in rows)
    assert metrics(rows[0])["final/test_last5"] == pytest.approx(SUMMARY["test.last5"])
    settings = rows[0].hparams
    assert settings["optimizer.lr"].number_value == 0.1
    assert settings["data.source"].string_value == "digits"
    assert settings["data.num_train"].string_value == "none"
    assert settings["data.augment"].string_value == "true"
    assert settings["optimizer.milestones"].string_value == "[30, 36]"


def test_columns_are_those_of_all_runs_with_what_differs_marked(tmp_path: Path) -> None:
    """Trials of two methods have different settings: neither may hide the other's."""
    for name, settings in {"a": {"optimizer.lr": 0.1, "method.tau": 1.0}, "b": {"optimizer.lr": 0.2}}.items():
        sink = TensorBoardSink()
        sink.start(info(tmp_path / name, **settings))
        sink.write(1, values(1), {})
        sink.close()
    columns, _ = table(tmp_path)
    differs = {column.name: column.differs for column in columns.hparam_infos}
    assert "method.tau" in differs
    assert differs["optimizer.lr"]
    assert not differs["batch_size"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "none"), (True, "true"), (False, "false"), (3, 3), (0.5, 0.5), ("1-100-1", "1-100-1"), ([], "[]")],
)
def test_settings_as_the_table_holds_them(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_names_of_methods_get_a_panel_of_their_own() -> None:
    assert tag("method.temperature") == "method/temperature"
    assert tag("method.stage.two") == "method/stage.two"


def test_the_columns_shown_first_say_bias_method_network_and_seed(tmp_path: Path) -> None:
    settings = {"data.bias.imbalance": 1.0, "data.bias.noise": "flip2", "data.bias.rate": 0.4, "model.name": "small"}
    for seed, method in enumerate(("base", "mwnet")):
        sink = TensorBoardSink()
        sink.start(info(tmp_path / method, **settings, seed=seed, **{"method.name": method}))
        sink.write(1, values(1), {})
        sink.close()
    columns, rows = table(tmp_path)
    assert [column.name for column in columns.hparam_infos][:4] == ["Method", "Seed", "method.name", "seed"]  # differ
    assert [column.name for column in columns.hparam_infos][4:6] == ["Bias", "Network"]
    first = rows[0].hparams
    assert (first["Bias"].string_value, first["Method"].string_value) == ("flip 40 %", "base")
    assert first["Seed"].number_value == 0
    assert said_first({"seed": 3}) == {"Seed": 3}
