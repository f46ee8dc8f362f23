"""cluster.yaml for AWS, proven without AWS: the real `ray up` against moto, whose instances are machines of namespaces.

`make test-cluster ARGS="-k test_aws"`; some four minutes on two cores. What stands for what is in `cloud.py`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from mwray.records import Run
from tests.cluster.hosts.account import Account, as_documented, documented
from tests.cluster.hosts.aws import REGION, Call
from tests.cluster.hosts.machines import Machine, wait_for
from tests.cluster.hosts.test_hosts import starts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TUNE = "cd mwray && python launch/tune.py --address auto"
ON_CPUS = "--gpus-per-trial 0 --concurrency 8 --trials 1"
"""So that a trial has one core of the eight that two workers have, and one thread on this machine."""
GPU = "g6.xlarge"
EPOCHS, MANY = 40, 80
"""Of a trial whose head goes, and of one whose machine has to hear of its end first."""
GONE = 120.0
"""Seconds until a machine that is not needed is given back, at most: half a minute, and two looks of the autoscaler."""
PASSED = 30.0
"""Seconds until a notice has reached Ray, at most; one or two on an idle machine."""


def test_the_documented_group_opens_ssh_to_one_address_and_ray_adds_nothing(account: Account):
    answer = account.run(f"aws ec2 describe-security-groups --group-names mwray --region {REGION}")
    (group,) = json.loads(answer)["SecurityGroups"]
    among, ssh = sorted(group["IpPermissions"], key=lambda rule: rule["IpProtocol"])
    assert (among["IpProtocol"], among["IpRanges"], among["Ipv6Ranges"]) == ("-1", [], [])
    assert [pair["GroupId"] for pair in among["UserIdGroupPairs"]] == [group["GroupId"]]
    assert (ssh["IpProtocol"], ssh["FromPort"], ssh["ToPort"], ssh["UserIdGroupPairs"]) == ("tcp", 22, 22, [])
    assert (ssh["IpRanges"], ssh["Ipv6Ranges"]) == ([{"CidrIp": f"{account.laptop.address}/32"}], [])
    made = Counter(call.action for call in account.aws.calls)
    assert made["ec2:CreateSecurityGroup"] == 1 and made["ec2:AuthorizeSecurityGroupIngress"] == 2


def test_the_head_is_the_machine_of_the_file_with_an_encrypted_disk_and_imdsv2(account: Account):
    (head,) = account.aws.instances("running")
    assert (head.instance_type, head.lifecycle, head.metadata_options.http_tokens) == ("m7i.xlarge", None, "required")
    assert [group.name for group in head.security_groups] == ["mwray"]
    ((device, disk),) = head.get_block_device_mapping
    volume = account.aws.ec2.describe_volumes([disk.volume_id])[0]
    assert (device, volume.size, volume.volume_type, volume.encrypted) == ("/dev/sda1", 120, "gp3", True)
    assert account.aws.role(head).name == "ray-autoscaler-v1"
    assert "1 head" in account.exec("ray status")
    mounted = commands(account.cloud.machines[head.id])[-1].split()
    assert mounted[1].endswith(".efs.us-west-2.amazonaws.com:/") and mounted[2] == "/mnt/mwray"
    assert mounted[4].split(",")[1:4] == ["nfsvers=4.1", "rsize=1048576", "wsize=1048576"]


def test_a_trial_that_waits_for_a_gpu_brings_spot_machines_once_a_zone_has_room(account: Account):
    """A machine here has no GPU that PyTorch could use, and a trial on it says so."""
    zones = [f"{REGION}{letter}" for letter in "abc"]
    account.aws.full = {(GPU, zone) for zone in zones}
    options = "--gpus-per-trial auto --concurrency 2 --trials 1"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(account.exec, f"{TUNE} --folder /mnt/mwray/runs/digits {options}", check=False)
        wait_for(lambda: running.done() or len(asked_for(account, GPU)) > len(zones), 180, "all zones to be tried")
        account.aws.full.discard((GPU, zones[2]))
        output = running.result()
    assert "measuring how much of a GPU a trial takes, as soon as there is one" in output
    assert "gave 1 GPU, and PyTorch" in output and "No such file" not in output
    calls = asked_for(account, GPU)
    assert [call.zone for call in calls[:3]] == zones and all(call.status[:3] == "500" for call in calls[:3])
    market = {name: value for name, value in calls[0].parameters.items() if name.startswith("InstanceMarketOptions")}
    assert market == {
        "InstanceMarketOptions.MarketType": "spot",
        "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
        "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
    }
    assert account.workers()
    for instance in account.aws.instances():
        if instance.instance_type == GPU:
            assert (instance.lifecycle, instance.metadata_options.http_tokens) == ("spot", "required")
            assert instance.placement.zone == zones[2] and account.aws.role(instance) is None


def test_trials_train_on_the_workers_and_one_leaves_a_machine_that_is_taken_back(
    account: Account, capsys: pytest.CaptureFixture[str]
):
    folder = account.shared / "runs/cpu"
    command = f"{TUNE} --folder /mnt/mwray/runs/cpu {ON_CPUS} --set epochs={MANY}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(account.exec, command)
        wait_for(lambda: running.done() or len(epochs(folder, "trials/*")) > 3, 120, "the trial's first epochs")
        (trial,) = folder.glob("trials/*")
        first = starts(trial)[-1]["host"]
        (taken,) = [name for name, machine in list(account.cloud.machines.items()) if machine.name == first]
        began = time.monotonic()
        account.cloud.notices.add(taken)
        log = account.cloud.machines[taken].folder / "tmp/ray"
        wait_for(lambda: "Ray has been told" in spoken(log), PASSED, "the notice to be passed on")
        passed = time.monotonic() - began
        output = running.result()
    rows = json.loads((folder / "leaderboard.json").read_text())
    assert [row["state"] for row in rows] == ["finished"] * 2, output  # BaseModel is the one more
    for row in rows:
        assert [record["epoch"] for record in Run(folder / row["folder"]).records()] == list(range(1, MANY + 1))
    hosts = [start["host"] for start in starts(trial)]
    kept = starts(trial)[-1]["epoch"]
    assert len(hosts) == 2 and hosts[0] != hosts[1] and kept >= 3
    with capsys.disabled():
        print(f"\na notice was passed on after {passed:.0f} s; the trial went on elsewhere after epoch {kept}")


def test_a_search_goes_on_after_the_head_was_lost_and_with_the_workers_that_it_had(account: Account):
    folder = account.shared / "runs/lost"
    command = f"{TUNE} --folder /mnt/mwray/runs/lost {ON_CPUS} --set epochs={EPOCHS}"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(account.exec, command, check=False)
        wait_for(lambda: running.done() or len(epochs(folder)) > 3, 120, "the first epochs")
        (head,) = [each.id for each in account.aws.instances("running") if each.instance_type != GPU]
        account.aws.ec2.terminate_instances([head])
        running.result()
    before = account.workers()
    account.run("ray up --yes cluster.yaml")
    output = account.exec(command)
    rows = json.loads((folder / "leaderboard.json").read_text())
    assert [row["state"] for row in rows] == ["finished"] * 2, output
    again = [start["epoch"] for row in rows for start in starts(folder / row["folder"])[1:]]
    assert max(again, default=0) >= 3, "none was cut short and went on"
    assert account.workers() == before, "the new head started others"


def test_workers_on_which_nothing_runs_are_given_back(account: Account):
    assert account.workers(), "there were some"
    wait_for(lambda: not account.workers("pending", "running"), GONE, "the workers to be given back")
    assert len(account.aws.instances("running")) == 1
    wait_for(lambda: len(account.cloud.machines) == 1, 60, "their machines to end")


def test_the_documented_role_suffices_for_what_the_head_asked_for(account: Account, capsys: pytest.CaptureFixture[str]):
    from moto.iam.access_control import IAMPolicy, PermissionResult

    asked = [call for call in account.aws.calls if call.asker != account.laptop.address]  # workers have no keys
    assert {call.status for call in asked} <= {"200 OK", "500 Internal Server Error"}  # the latter: no room in a zone
    nobody = "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE AWS_SECRET_ACCESS_KEY=wrong"
    assert "AuthFailure" in account.run(f"{nobody} aws ec2 describe-instances --region {REGION}", check=False)
    as_documented(account, documented(3))
    file = yaml.safe_load((account.laptop.home / "mwray/cluster.yaml").read_text())
    assert file["available_node_types"]["head"]["node_config"]["IamInstanceProfile"] == {"Name": "mwray-head"}
    policy = IAMPolicy(account.aws.policy("mwray-head"))
    counts = Counter(call.action for call in asked)
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DescribeInstances"} <= set(counts)
    assert [action for action in counts if policy.is_action_permitted(action) is not PermissionResult.PERMITTED] == []
    with capsys.disabled():
        print(f"\nthe head asked for: {dict(sorted(counts.items()))}")


def test_nothing_is_left_after_ray_down_and_the_documented_end(account: Account):
    account.run("ray down --yes cluster.yaml")
    assert {instance.state for instance in account.aws.instances()} == {"terminated"}
    assert account.aws.ec2.describe_volumes() == []
    wait_for(lambda: not account.cloud.machines, 60, "the head to end")
    wait_for(lambda: not account.laptop.processes(), 30, "the last process of the laptop to end")
    first, _, rest = documented(2).partition("\n")
    assert first.startswith("ray down cluster.yaml")
    states = [line.split()[1] for line in as_documented(account, rest).splitlines() if line.startswith("i-")]
    assert states == ["terminated"] * len(account.aws.instances())
    assert "mwray" not in {group.name for group in account.aws.ec2.describe_security_groups()}


# ---------------------------------------------------------------------------------------------------------------------


def commands(machine: Machine) -> list[str]:
    """What the machine was asked to install and mount."""
    return (machine.folder / "commands").read_text().splitlines()


def asked_for(account: Account, machine: str) -> list[Call]:
    """Requests for machines of this type, in their order."""
    runs = [call for call in account.aws.calls if call.action == "ec2:RunInstances"]
    return [call for call in runs if call.parameters["InstanceType"] == machine]


def epochs(folder: Path, trials: str = "*/*") -> list[dict[str, Any]]:
    """Records of the search's trials."""
    return [record for trial in folder.glob(trials) if trial.is_dir() for record in Run(trial).records()]


def spoken(folder: Path) -> str:
    """What spot.sh has said on a machine, by its folder for Ray's files."""
    return "".join(log.read_text() for log in folder.glob("session_2*/logs/mwray_spot.log"))
