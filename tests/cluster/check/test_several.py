"""Several mistakes in one cluster file: each is told, also where Ray refuses the file for another one."""

from __future__ import annotations

import pytest
import yaml

from mwray.cluster.check.command import check
from tests.cluster.check.shipped import AWS, CLUSTERS, filled, line_of, spoilt

pytestmark = pytest.mark.usefixtures("laptop")

SEVERAL = {
    "max_workers: 8\n": ("max_worker: 8\n", "Did you mean 'max_workers'?"),
    "  cache_stopped_nodes: false": ("  cache_stopped_nodes: 7", "not of type 'boolean'"),
    "    GroupName: mwray\n": ("    IpPermissions: []\n", ""),
    "    max_workers: 8": ("    max_workers: many", "not of type 'integer'"),
    "InstanceType: g6.xlarge": ("InstanceType: g7.xlarge", "no price is known for g7.xlarge"),
    "head_node_type: head": ("head_node_type: boss", "must be one of"),
    "boto3==1.44.8": ("optuna==4.0.0", "constraints.txt has 5.0.0"),
    "head_start_ray_commands:": ("head_start_ray_command:", "Did you mean 'head_start_ray_commands'?"),
    "--dashboard-host=127.0.0.1": ("--dashboard-host=0.0.0.0", "opens the dashboard"),
    "  - bash ~/mwray/launch/clusters/loopback.sh\n": ("  - 7\n", "not of type 'string'"),
    "--address=$RAY_HEAD_IP:6379": ("--address=auto", "not join"),
}


def test_all_of_several_mistakes_are_told_each_with_its_line(tmp_path):
    """Also those in what Ray refuses: under a name that is not quite right, in a list of which one item is wrong."""
    text = filled(AWS)
    for old, (new, _) in SEVERAL.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    found = [(mistake.line, mistake.text) for mistake in check(path).mistakes]
    wanted = [(line_of(path, new.strip()), part) for new, part in SEVERAL.values() if part]
    wanted += [
        (line_of(path, "provider:"), "whole world"),
        (line_of(path, "ray start --head"), "client port"),
    ]
    for line, part in wanted:
        assert any(line == where and part in text for where, text in found), f"{part} in line {line}: {found}"
    assert len(found) == len(wanted), found
    assert check(path).cost == ()


@pytest.mark.parametrize("setting", ("provider", "available_node_types", "file_mounts", "setup_commands"))
def test_a_setting_that_is_wrong_as_a_whole_is_one_mistake(setting, tmp_path):
    data = yaml.safe_load(filled(AWS))
    data[setting] = 7
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    (line,) = {mistake.line for mistake in check(path).mistakes}
    assert line == line_of(path, f"{setting}: 7")


def test_what_ray_has_no_form_for_does_not_make_the_check_fail(tmp_path):
    rules = "    GroupName: mwray\n    IpPermissions: [7, {IpRanges: 7}, {IpRanges: [7]}]\n"
    found = check(spoilt(AWS, tmp_path, "    GroupName: mwray\n", rules)).mistakes
    assert [mistake.where.rpartition(".")[2] for mistake in found] == ["0", "1", "2"]
    path = spoilt(CLUSTERS / "gcp.yaml", tmp_path, "scheduling: &spot\n", "scheduling: [7]\n      unused: &spot\n")
    assert [mistake.where.rpartition(".")[2] for mistake in check(path).mistakes] == ["0", "unused"]
