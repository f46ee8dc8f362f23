"""What Ray lets through, and only the provider would refuse: each mistake in a machine type is told with its line."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import ray.autoscaler

from mwray.cluster.check import apis
from mwray.cluster.check.command import check
from mwray.cluster.check.document import load
from mwray.cluster.check.pins import pins
from mwray.cluster.check.provider import READ
from tests.cluster.check.google import REAL, stand_in
from tests.cluster.check.shipped import AWS, CLUSTERS, line_of, spoilt

GCP = CLUSTERS / "gcp.yaml"
pytestmark = pytest.mark.usefixtures("laptop")

AWS_TYPE = "      InstanceType: g6.xlarge\n"
GCP_TYPE = "      machineType: g2-standard-8\n"


def beside(line, given):
    """One more line in a machine type."""
    return given, f"{given}{given[: len(given) - len(given.lstrip())]}{line}\n"


AWS_MISTAKES = {
    "setting": ("InstanceMarketOptions:", "InstanceMarketOption:", "Did you mean 'InstanceMarketOptions'?"),
    "setting further down": ("VolumeSize: 120", "VolumeSze: 120", "Did you mean 'VolumeSize'?"),
    "setting of the machine": ("InstanceType: g6", "InstanceTyp: g6", "Did you mean 'InstanceType'?"),
    "another place": (*beside("HttpTokens: required ", AWS_TYPE), "Did you mean 'MetadataOptions.HttpTokens'?"),
    "setting that is nowhere": (*beside("Zzz: 1", AWS_TYPE), "knows no such setting."),
    "value": ("MarketType: spot", "MarketType: spott", "on-demand. Did you mean 'spot'?"),
    "value further down": ("VolumeType: gp3", "VolumeType: gp33", "'gp33' is none of the values that AWS"),
    "value that YAML reads otherwise": ("{HttpTokens: required}", "{HttpTokens: off}", "False is none of the values"),
    "number": ("VolumeSize: 120", "VolumeSize: big", "has to be a whole number, not 'big'"),
    "number in quotes": ("VolumeSize: 120", "VolumeSize: '120'", "has to be a whole number, not '120'"),
    "number that is none": ("VolumeSize: 120", "VolumeSize: true", "has to be a whole number, not True"),
    "text": (*beside("UserData: 7", AWS_TYPE), "has to be text, not 7, as YAML reads it: put it into quotes"),
    "date": ("one-time,", "one-time, ValidUntil: 2027-01-01,", "has to be text, not datetime.date(2027, 1, 1)"),
    "truth": ("Encrypted: true", "Encrypted: 'yes'", "has to be true or false, not 'yes'"),
    "nothing": (*beside("EbsOptimized:", AWS_TYPE), "and is empty: give one or leave the setting out"),
    "list": (*beside("SecurityGroupIds: sg-1", AWS_TYPE), "has to be a list, not 'sg-1'"),
    "item of a list": (*beside("SecurityGroupIds: [7]", AWS_TYPE), "has to be text, not 7"),
    "mapping": (*beside("Placement: us-west-2a", AWS_TYPE), "has to be a mapping of settings, not 'us-west-2a'"),
    "what has to be there": (*beside("Monitoring: {}", AWS_TYPE), "Enabled is missing"),
    "what Ray writes over": (*beside("SubnetId: subnet-1", AWS_TYPE), "give SubnetIds, a list"),
    "provider": (*beside("use_internal_ip: true", "  type: aws\n"), "Did you mean 'use_internal_ips'?"),
    "another provider": (*beside("project_id: mine", "  type: aws\n"), "no such setting with provider aws"),
}
GCP_MISTAKES = {
    "setting": ("      scheduling: &spot", "      schedulin: &spot", "Did you mean 'scheduling'?"),
    "setting further down": ("onHostMaintenance:", "onHostMaintenence:", "Did you mean 'onHostMaintenance'?"),
    "setting of the machine": ("machineType: g2", "machinType: g2", "Did you mean 'machineType'?"),
    "another place": (*beside("diskSizeGB: 9", GCP_TYPE), "knows no such setting."),
    "value": ("provisioningModel: SPOT", "provisioningModel: spot", "STANDARD. Did you mean 'SPOT'?"),
    "number": ("diskSizeGb: 120", "diskSizeGb: big", "has to be a whole number, with or without quotes, not 'big'"),
    "truth": ("automaticRestart: false", "automaticRestart: 'no'", "has to be true or false, not 'no'"),
    "text": (*beside("description: 7", GCP_TYPE), "has to be text, not 7, as YAML reads it: put it into quotes"),
    "text of any name": (*beside("labels: {team: 7}", GCP_TYPE), "has to be text, not 7"),
    "list": (*beside("networkInterfaces: {networkIP: 10.0.0.9}", GCP_TYPE), "has to be a list, not a mapping"),
    "provider": (*beside("use_internal_ip: true", "  type: gcp\n"), "Did you mean 'use_internal_ips'?"),
    "another provider": (*beside("security_group: {}", "  type: gcp\n"), "no such setting with provider gcp"),
}


@pytest.fixture(params=("real", "stand-in"))
def google(request, tmp_path, monkeypatch):
    """Google's own description where its package is installed, and the stand-in."""
    if request.param == "real" and not REAL:
        pytest.skip("google-api-python-client is not installed")
    if request.param == "stand-in" and REAL:
        monkeypatch.syspath_prepend(stand_in(tmp_path / "packages"))


def one_mistake(path, tmp_path, old, new, text):
    changed = spoilt(path, tmp_path, old, new)
    (found,) = check(changed).mistakes
    assert text in found.text
    assert found.line == line_of(changed, new.splitlines()[-1])


@pytest.mark.parametrize("mistake", AWS_MISTAKES)
def test_a_mistake_in_what_goes_to_aws_is_told_with_its_line(mistake, tmp_path):
    one_mistake(AWS, tmp_path, *AWS_MISTAKES[mistake])


@pytest.mark.parametrize("mistake", GCP_MISTAKES)
def test_a_mistake_in_what_goes_to_google_is_told_with_its_line(mistake, google, tmp_path):
    one_mistake(GCP, tmp_path, *GCP_MISTAKES[mistake])


def test_the_shipped_file_is_what_google_takes(google, tmp_path):
    assert check(spoilt(GCP, tmp_path, "mwray", "mwray")).mistakes == ()


def test_what_ray_adds_and_takes_away_is_no_mistake(google, tmp_path):
    own = "{SubnetIds: [subnet-1], MinCount: 1, KeyName: mine, LaunchTemplate: {LaunchTemplateName: mine, Version: 3}}"
    assert check(spoilt(AWS, tmp_path, *beside(f"<<: {own}", AWS_TYPE))).mistakes == ()
    own = "{sourceInstanceTemplate: global/instanceTemplates/mine, networkConfig: {}}"
    assert check(spoilt(GCP, tmp_path, *beside(f"<<: {own}", GCP_TYPE))).mistakes == ()


def test_google_takes_some_things_in_two_forms(google, tmp_path):
    assert check(spoilt(GCP, tmp_path, "diskSizeGb: 120", "diskSizeGb: '120'")).mistakes == ()
    assert check(spoilt(GCP, tmp_path, "scheduling: *spot", "scheduling: [{preemptible: true}]")).mistakes == ()


def test_a_tpu_is_of_another_api(google, tmp_path):
    path = spoilt(GCP, tmp_path, GCP_TYPE, "      acceleratorType: v4-8\n      runtimeVersion: tpu-vm-v4-base\n")
    (found,) = check(path).mistakes
    assert "machineType is missing" in found.text


def test_a_new_machine_type_needs_nothing_but_a_price(tmp_path, monkeypatch):
    prices = {"aws": {"hour": {"m7i.xlarge": 1, "p5.4xlarge": 1, "g99.xlarge": 1}}}
    monkeypatch.setattr("mwray.cluster.check.rules.prices_table", lambda: prices)
    assert check(spoilt(AWS, tmp_path, "g6.xlarge", "g99.xlarge")).mistakes == ()


def test_what_is_merged_is_looked_at_where_it_is_written(tmp_path):
    path = spoilt(AWS, tmp_path, *beside("<<: {InstanceType: 7, EbsOptimised: true}", AWS_TYPE))
    (found,) = check(path).mistakes
    assert found.line == line_of(path, "EbsOptimised") and "Did you mean 'EbsOptimized'?" in found.text
    text = path.read_text().replace("<<: {InstanceType: 7, EbsOptimised: true}", "<<: *shared")
    path.write_text(f"metadata:\n  shared: &shared\n    EbsOptimised: true\n{text}")
    (found,) = check(path).mistakes
    assert found.line == 3 and found.where == "available_node_types.gpu.node_config.EbsOptimised"


def test_what_is_below_a_misspelt_setting_is_looked_at_too(tmp_path):
    path = spoilt(AWS, tmp_path, "InstanceMarketOptions:", "InstanceMarketOption:")
    path.write_text(path.read_text().replace("MarketType: spot", "MarketType: spott", 1))
    setting, value = check(path).mistakes
    assert setting.line == line_of(path, "InstanceMarketOption:") and "'InstanceMarketOptions'?" in setting.text
    assert value.line == line_of(path, "spott") and "Did you mean 'spot'?" in value.text
    (found,) = check(spoilt(AWS, tmp_path, *beside("NetworkInterface: eth0", AWS_TYPE))).mistakes
    assert "Did you mean 'NetworkInterfaces'?" in found.text


def test_what_several_types_share_is_told_once(tmp_path):
    path = spoilt(AWS, tmp_path, "VolumeSize: 120, VolumeType", "VolumeSze: 120, VolumeTyp")
    assert [mistake.where.rpartition(".")[2] for mistake in check(path).mistakes] == ["VolumeSze", "VolumeTyp"]


def test_the_line_of_a_merged_setting_is_that_of_the_one_that_counts(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(
        "one: &one\n  a: {x: 1}\n  b: 1\ntwo: &two\n  b: 2\n  c: 2\nall:\n  <<: [*one, *two]\n  a: {y: 3}\n"
    )
    (document,) = load(path)
    assert document.data["all"] == {"a": {"y": 3}, "b": 1, "c": 2}
    lines = {place[1:]: line for place, line in document.lines.items() if place[0:1] == ("all",)}
    assert lines == {(): 7, ("a",): 9, ("a", "y"): 9, ("b",): 3, ("c",): 6}
    assert document.twice == ()


@pytest.mark.parametrize(("path", "package"), [(AWS, "boto3"), (GCP, "google-api-python-client")])
def test_without_the_providers_package_the_check_says_so(path, package, tmp_path, monkeypatch):
    monkeypatch.setattr(apis, "find_spec", lambda name: None)
    (found,) = check(spoilt(path, tmp_path, "mwray", "mwray")).mistakes
    assert found.line == line_of(path, "  type: ")
    assert f"{package} is not installed" in found.text
    assert found.text.endswith(f"pip install -c constraints.txt {package}=={pins()[package]}")
    assert package != "boto3" or version(package) == pins()[package]


def test_machines_of_ones_own_need_neither_package(tmp_path, monkeypatch):
    monkeypatch.setattr(apis, "load", None)
    assert check(spoilt(CLUSTERS / "onprem.yaml", tmp_path, "mwray", "mwray")).mistakes == ()
    code = "import sys, mwray.cluster.check.command; print({'boto3', 'botocore', 'googleapiclient'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("provider", READ)
def test_the_settings_that_ray_reads_are_those_that_its_code_asks_for(provider):
    private = Path(ray.autoscaler.__file__).parent / "_private"
    own = "".join(path.read_text() for path in (private / provider).rglob("*.py"))
    every = "".join(path.read_text() for path in private.glob("*.py"))
    asked = re.findall(r"""provider(?:_config|"\])(?:\.get\(|\[)\s*("[a-z]\w+"|[A-Z]\w+_KEY)""", own + every)
    named = {re.search(rf'^{name} = "(\w+)"', every, re.M)[1] if name[0] != '"' else name[1:-1] for name in asked}
    assert len(named) > 9 and named - {"module"} <= set(READ[provider])  # module: of a provider that is none of Ray's
    assert [name for name in READ[provider] if f'"{name}"' not in own + every] == []
