"""The model of many GPUs: its exchange against a closed form, and compute from measurements where there are any."""

from __future__ import annotations

import json

import pytest

from benchmarks import scaling_model, workers
from benchmarks.scaling_model import exchange, measured, modelled

TIMES = (("resnet32", "plain", 2), ("resnet32", "mwnet", 5), ("wrn28-10", "plain", 30), ("wrn28-10", "mwnet", 90))


def written(path, device="cuda", missing=()):
    """What `benchmarks.gpu` leaves; eager takes twice the time of a graph."""
    rows = [
        {"model": model, "precision": "fp32", "method": method, "path": how, "milliseconds": slower * milliseconds}
        for model, method, milliseconds in TIMES
        if model not in missing
        for how, slower in (("eager", 2), ("graph", 1))
    ]
    rows.append({"model": "resnet32", "precision": "fp32", "method": "mwnet", "path": "graph", "error": "no memory"})
    path.write_text(json.dumps({"settings": {"device": device}, "rows": rows}))
    return path


def test_a_ring_carries_twice_the_bytes_and_waits_for_each_doubling():
    assert exchange(1e9, 1) == 0.0
    assert exchange(3e11, 2) == pytest.approx(1.0 + 2e-5)  # 2 (2 - 1) / 2 of 3e11 bytes at 3e11 a second
    assert exchange(2.5e10, 64) == pytest.approx(2 * 63 / 64 + 6 * 5e-5)


def test_measured_compute_takes_the_place_of_counted(tmp_path):
    seconds = measured(written(tmp_path / "gpu.json"))
    assert seconds == {"ResNet-32": (0.005, 0.002), "WRN-28-10": (0.09, 0.03)}  # the faster path
    one, eight = modelled("ResNet-32", (1, 8), seconds)
    assert one["compute"] == 0.005 and one["efficiency"] == one["plain_efficiency"] == 1.0 and one["measured"]
    assert eight["efficiency"] == pytest.approx(0.005 / (0.005 + eight["exchange"]))
    assert eight["exchange"] == modelled("ResNet-32", (8,))[0]["exchange"]  # bytes are counted in either case
    assert not modelled("ResNet-50", (8,), seconds)[0]["measured"]


def test_numbers_of_a_cpu_and_missing_ones_are_refused(tmp_path):
    with pytest.raises(ValueError, match="measured on a CPU"):
        measured(written(tmp_path / "cpu.json", device="cpu"))
    with pytest.raises(ValueError, match=r"no time of mwnet for wrn28-10 in fp32"):
        measured(written(tmp_path / "half.json", missing=("wrn28-10",)))


def test_counted_compute_is_ten_forwards_or_the_launch_of_the_kernels():
    operations, _ = scaling_model.counted("WRN-28-10")
    assert modelled("WRN-28-10", (1,))[0]["compute"] == pytest.approx(10 * operations / scaling_model.SPEED)
    assert modelled("ResNet-32", (1,))[0]["compute"] == scaling_model.LAUNCH


def test_the_speed_is_that_of_the_measurement_that_it_stands_for():
    operations, _ = scaling_model.counted("ResNet-50")
    images = scaling_model.NETWORKS["ResNet-50"][2]
    assert scaling_model.SPEED / (3 * operations / images) == pytest.approx(2470, rel=0.01)


def test_settings_that_are_not_given_are_null_in_the_report(tmp_path, monkeypatch):
    names = ("seconds", "ratio", "expected", "exchange_seconds", "exchange_bytes", "exchange_calls")
    row = {"form": "plain", "workers": 1, **dict.fromkeys(names, 1.0)}
    monkeypatch.setattr(workers, "measure", lambda name, options: [row])
    monkeypatch.setattr("sys.argv", ["workers", "--out", str(tmp_path)])
    workers.main()
    settings = json.loads((tmp_path / "workers.json").read_text())["settings"]
    assert settings["gpu"] is None and settings["out"] == str(tmp_path) and settings["workers"] == [1, 2]
