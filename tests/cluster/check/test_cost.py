"""What a cluster costs and which versions it gets."""

from __future__ import annotations

import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config

from mwray.cluster.check import cost
from mwray.cluster.check.pins import of_command, of_image, pins
from tests.cluster.check.shipped import AWS, CLUSTERS, filled

TABLE = {"date": "2030-01-01", "aws": {"region": "us-west-2", "hour": {"small": 0.5, "gpu": 2.0, "big": 10.0}}}


def prepared(max_workers: int, region: str = "us-west-2", **types: tuple[str, int]) -> dict:
    nodes = {name: {"node_config": {"InstanceType": kind}, "max_workers": n} for name, (kind, n) in types.items()}
    return {
        "provider": {"type": "aws", "region": region},
        "available_node_types": nodes,
        "head_node_type": "head",
        "max_workers": max_workers,
    }


def test_full_size_is_the_head_and_the_dearest_workers_that_fit():
    bill = cost.describe(prepared(5, head=("small", 0), cheap=("gpu", 8), fast=("big", 2)), TABLE)
    assert "at full size 26.50 $ an hour on demand, 0.50 $ with the head alone" in bill  # 0.5 + 2 x 10 + 3 x 2
    assert [line.split()[:3] for line in bill[:3]] == [["1", "x", "small"], ["2", "x", "big"], ["3", "x", "gpu"]]
    assert "2030-01-01" in bill[-1] and "has others" not in bill[-1]


def test_a_machine_without_a_price_and_another_region_are_said():
    bill = "\n".join(cost.describe(prepared(2, "eu-west-1", head=("small", 0), a=("new", 1), b=("gpu", 4)), TABLE))
    assert "at full size at least 2.50 $ an hour on demand (no price known for new), 0.50 $ with the head" in bill
    assert "eu-west-1 has others" in bill
    bill = "\n".join(cost.describe(prepared(1, head=("new", 0), b=("gpu", 4)), TABLE))
    assert "at full size at least 2.00 $ an hour on demand (no price known for new)\n" in bill


def test_shipped_types_have_prices_and_the_bill_is_their_sum():
    hours = cost.prices_table()["aws"]["hour"]
    found = cost.machines(prepare_config(yaml.safe_load(filled(AWS))))
    assert sum(kind.cost for kind in found) == pytest.approx(hours["m7i.xlarge"] + 8 * hours["g6.xlarge"])
    assert [kind.spot for kind in found] == [False, True]
    for path in (AWS, CLUSTERS / "gcp.yaml"):
        types = re.findall(r"^ +(?:InstanceType|machineType): (\S+)", path.read_text(), re.MULTILINE)
        assert set(types) <= set(cost.prices_table()[yaml.safe_load(filled(path))["provider"]["type"]]["hour"])


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("pip install ray[default,tune]==2.60.0 optuna==5.0.0", 0),
        ("pip install 'ray[default]>=2.50'", 1),
        ("pip install -c constraints.txt ray torch", 0),
        ("pip install RAY==2.59.0 scikit_learn==0.1", 2),
        ("pip install some-ray==1.0 xray==2.0", 0),
        ("ray start --head", 0),
        ("bash install.sh boto3==1.44.8", 0),
    ],
)
def test_versions_in_commands(command, number):
    assert len(list(of_command(command, pins()))) == number


@pytest.mark.parametrize(
    ("image", "sound"),
    [
        ("rayproject/ray:2.60.0-py311", True),
        ("rayproject/ray:2.60.0-py312-gpu", True),
        ("rayproject/ray:2.60.0", False),
        ("rayproject/ray:latest", False),
        ("rayproject/ray", False),
        ("host:5000/mine", False),
        ("host:5000/mine:7-ray2.60.0", True),
        ("host:5000/mine:12.60.0", False),
    ],
)
def test_versions_of_images(image, sound):
    assert (list(of_image(image, pins())) == []) is sound
