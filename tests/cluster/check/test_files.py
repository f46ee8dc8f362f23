"""Cluster files as shipped are sound once filled in, and each way to spoil one is told with its line."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mwray.cluster.check.command import check, main
from mwray.cluster.check.document import ClusterFileError, load
from mwray.cluster.check.pins import pins
from tests.cluster.check.shipped import AWS, CLUSTERS, EVERY, LAUNCHED, ROOT, filled, line_of, spoilt

FILL_IN = re.compile(r"FILL_IN_\w+")
name = pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
pytestmark = pytest.mark.usefixtures("laptop")


@name
def test_a_shipped_file_wants_to_be_filled_in_and_nothing_else(path):
    mistakes = check(path).mistakes
    lines = [line.split("#")[0] for line in path.read_text().splitlines()]
    wanted = {name: number for number, line in reversed([*enumerate(lines, 1)]) for name in FILL_IN.findall(line)}
    assert {FILL_IN.search(mistake.text)[0]: mistake.line for mistake in mistakes} == wanted
    assert len(mistakes) == len(wanted)


@name
def test_filled_in_it_has_no_mistake(path, tmp_path):
    changed = spoilt(path, tmp_path, "mwray", "mwray")
    assert check(changed).mistakes == ()
    assert main([str(changed)]) == 0


@pytest.mark.parametrize("path", LAUNCHED, ids=lambda path: path.stem)
def test_ray_itself_accepts_it_and_every_host_installs_and_asks_for_the_token(path, capfd):
    prepared = prepare_config(yaml.safe_load(filled(path)))
    validate_config(prepared)
    assert any("install.sh" in command for command in prepared["worker_setup_commands"])
    assert any("install.sh" in command for command in prepared["head_setup_commands"])
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "0.0.0.0" not in str(prepared)


def test_versions_outside_python_follow_the_constraints():
    version = pins()["ray"]
    assert f"FROM rayproject/ray:{version}-py311" in (CLUSTERS / "Dockerfile").read_text()
    assert f"ray{version}" in (CLUSTERS / "Dockerfile").read_text()


def test_what_cluster_files_install_beside_mwray_agrees_with_the_constraints():
    """botocore, which boto3 brings, takes no python-dateutil from 3 on: with such a pin no host would be set up."""
    assert int(pins()["python-dateutil"].partition(".")[0]) < 3


def test_the_guide_names_what_is_there():
    guide = (ROOT / "docs/clusters.md").read_text()
    for path in re.findall(r"(?:launch|docs)/[\w./-]+\w", guide):
        assert (ROOT / path).exists(), path
    for path, requirement in ((AWS, "boto3"), (CLUSTERS / "gcp.yaml", "google-api-python-client")):
        (installed,) = re.findall(rf"install.sh ({requirement}==\S+)", path.read_text())
        assert installed in guide
    for name in re.findall(r"FILL_IN_\w+", guide):
        assert any(name in path.read_text() for path in EVERY), name


# ---------------------------------------------------------------------------------------------------------------------

HEAD = "--dashboard-host=127.0.0.1"
AWS_MISTAKES = {
    "unknown setting": ("max_workers: 8\n", "max_worker: 8\n", "max_worker: 8", "Did you mean 'max_workers'?"),
    "wrong type": ("    max_workers: 8", "    max_workers: many", "max_workers: many", "not of type 'integer'"),
    "port setting of ssh": ("auth:\n", "auth:\n  ssh_port: 2222\n", "ssh_port", "Ray knows no such setting"),
    "head type unknown": ("head_node_type: head", "head_node_type: boss", "head_node_type: boss", "must be one of"),
    "provider unknown": ("  type: aws", "  type: awss", "provider:", "awss"),
    "written twice": ("auth:\n", "max_workers: 9\nauth:\n", "max_workers: 9", "twice"),
    "another Ray": ("boto3==1.44.8", "ray==2.59.0", "ray==2.59.0", "constraints.txt has 2.60.0"),
    "another optuna": ("boto3==1.44.8", "optuna==4.0.0", "optuna==4.0.0", "constraints.txt has 5.0.0"),
    "nightly Ray": (
        "ray stop",
        'pip install "ray[default] @ https://s3.example.org/ray-3.0.0.dev0-cp310.whl"',
        ".whl",
        "from a wheel",
    ),
    "newest Ray": ("ray stop", 'pip install -U "ray[default]"', "pip install -U", "newest"),
    "image of another Ray": (
        "auth:\n",
        "docker: {image: 'rayproject/ray:2.9.0-py311', container_name: ray}\nauth:\n",
        "docker: {",
        "2.60.0",
    ),
    "Ray's own pip": ("head_setup_commands: []\n", "", "setup_commands:", "without head_setup_commands"),
    "dashboard to all": (HEAD, "--dashboard-host=0.0.0.0", "--dashboard-host=0.0.0.0", "opens the dashboard"),
    "no dashboard": (HEAD, "--include-dashboard=False", "--include-dashboard", "never frees"),
    "no autoscaler": (" --autoscaling-config=~/ray_bootstrap_config.yaml", "", "ray start --head", "no worker"),
    "clients' port": ("  - bash ~/mwray/launch/clusters/loopback.sh\n", "", "ray start --head", "client port"),
    "secret in a command": (
        "  - sudo mkdir -p /mnt/mwray\n",
        "  - export AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLE\n",
        "AWS_SECRET_ACCESS_KEY",
        "a secret is written here",
    ),
    "secret with a slash": (
        "auth:\n",
        "metadata: {aws_secret_access_key: wJalr/XUtnFEMI}\nauth:\n",
        "aws_secret_access_key",
        "a secret is written here",
    ),
    "another token in a command": (
        "  - sudo mkdir -p /mnt/mwray\n",
        "  - export HF_TOKEN=hf_ab/cdefghijklmnop\n",
        "HF_TOKEN",
        "a secret is written here",
    ),
    "key of an account": ("ssh_user: ubuntu  ", "ssh_user: AKIAIOSFODNN7EXAMPLE  ", "AKIA", "a secret is written"),
    "worker alone": ("--address=$RAY_HEAD_IP:6379", "--head", "--head --disable", "not join"),
    "spot head": (
        "      InstanceType: m7i.xlarge",
        "      InstanceMarketOptions: {MarketType: spot}\n      InstanceType: m7i.xlarge",
        "node_config:",
        "the head is spot",
    ),
    "drivers on workers": (
        "    resources: {}  ",
        '    resources: {"trial_slot": 1}  ',
        '{"trial_slot": 1}',
        "the head alone",
    ),
    "stopped, not removed": (
        "cache_stopped_nodes: false",
        "cache_stopped_nodes: true",
        "cache_stopped_nodes",
        "paying",
    ),
    "ports open": (
        "    GroupName: mwray\n",
        "    GroupName: mwray\n    IpPermissions:\n"
        "      - {FromPort: 8265, ToPort: 8265, IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}\n",
        "FromPort: 8265",
        "more than ssh (port 22) to the outside, to 0.0.0.0/0",
    ),
    "ssh to everybody": (
        "    GroupName: mwray\n",
        "    GroupName: mwray\n    IpPermissions:\n"
        "      - {FromPort: 22, ToPort: 22, IpProtocol: tcp, Ipv6Ranges: [{CidrIpv6: '::/0'}]}\n",
        "FromPort: 22",
        "ssh to the whole world, ::/0; make the group by the commands in docs/clusters.md",
    ),
    "ssh to one, and to everybody by Ray": (
        "    GroupName: mwray\n",
        "    GroupName: mwray\n    IpPermissions:\n"
        "      - {FromPort: 22, ToPort: 22, IpProtocol: tcp, IpRanges: [{CidrIp: 192.0.2.1/32}]}\n",
        "FromPort: 22",
        "Ray would add ssh for the whole world",
    ),
    "ssh to the world": ("    GroupName: mwray\n", "    IpPermissions: []\n", "provider:", "whole world"),
    "no machine": (
        "node_config:\n      InstanceType: g6.xlarge\n",
        "node_config:    # which?\n",
        "# which?",
        "InstanceType is missing",
    ),
    "machine without a price": (
        "InstanceType: g6.xlarge",
        "InstanceType: g6.xlrge",
        "g6.xlrge",
        "no price is known for g6.xlrge. Did you mean 'g6.xlarge'?",
    ),
    "spot and no notice": (
        "  - sh ~/mwray/launch/clusters/spot.sh aws\n",
        "",
        "ray start --address",
        "run launch/clusters/spot.sh aws after",
    ),
    "notice of another provider": ("spot.sh aws", "spot.sh gcp", "ray start --address", "spot.sh aws after"),
    "script that does not travel": (
        "bash ~/mwray/launch/clusters/loopback.sh",
        "bash ~/mwray/launch/clusters/loopback.sh && sh ~/mwray/launch/clusters/absent.sh",
        "absent.sh",
        "absent.sh is nothing that file_mounts bring",
    ),
    "token left out": ('  "~/.ray/auth_token": ~/.ray/auth_token\n', "", "file_mounts:", "no token travels"),
    "authentication off": (
        "ulimit -n $(ulimit -Hn); ray start --head",
        "export RAY_AUTH_MODE=disabled; ray start --head",
        "setup_commands:",
        "anybody",
    ),
    "file that is not there": ('README.md": README.md', 'README.md": R.md', '": R.md', "R.md does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", AWS_MISTAKES)
def test_a_mistake_is_told_with_its_line(mistake, tmp_path, capsys):
    old, new, marker, text = AWS_MISTAKES[mistake]
    path = spoilt(AWS, tmp_path, old, new)
    (found,) = check(path).mistakes
    assert text in found.text
    assert found.line == line_of(path, marker)
    assert main([str(path)]) == 2
    assert f"{path}:{found.line}: " in capsys.readouterr().err


def test_what_ray_puts_in_where_the_start_commands_are_missing_is_looked_at_too(tmp_path):
    text = filled(AWS)
    path = tmp_path / "cluster.yaml"
    path.write_text(text[: text.index("head_start_ray_commands:")])
    found = check(path).mistakes
    for mistake, text in zip(found, ("client port", "0.0.0.0", "spot machine"), strict=True):
        assert text in mistake.text and mistake.line == line_of(path, "  type: aws")


def test_storage_and_installation_are_not_forgotten(tmp_path):
    data = yaml.safe_load(filled(AWS))
    data["setup_commands"] = ["echo hello"]
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    texts = [mistake.text for mistake in check(path).mistakes]
    assert len(texts) == 3
    assert all(any(part in text for text in texts) for part in ("installs mwray", "RAY_AUTH_MODE", "mounts shared"))


def test_on_premises_needs_the_older_autoscaler_and_both_addresses(tmp_path):
    path = spoilt(CLUSTERS / "onprem.yaml", tmp_path, "export RAY_enable_autoscaler_v2=0; ", "")
    (found,) = check(path).mistakes
    assert "leaves out one worker" in found.text and found.line == line_of(path, "ray start --head")
    path = spoilt(CLUSTERS / "onprem.yaml", tmp_path, "  head_ip: 10.0.0.10", "  # none")
    (found,) = check(path).mistakes
    assert "head_ip" in found.text and found.line == line_of(path, "provider:")


def test_a_token_that_others_can_read_or_that_is_not_there(laptop):
    filled_mistakes = {mistake.text for mistake in check(AWS).mistakes}
    (laptop / ".ray/auth_token").chmod(0o644)
    (more,) = {mistake.text for mistake in check(AWS).mistakes} - filled_mistakes
    assert "chmod 600" in more
    (laptop / ".ray/auth_token").unlink()
    (more,) = {mistake.text for mistake in check(AWS).mistakes} - filled_mistakes
    assert "ray get-auth-token --generate" in more


KUBERAY_MISTAKES = {
    'rayVersion: "2.60.0"': ('rayVersion: "2.59.0"', "constraints.txt has '2.60.0'"),
    "mwray:0.1.0-ray2.60.0 ": ("mwray:latest ", "has to name Ray 2.60.0"),
    "mode: token": ("mode: disabled", "anybody"),
    "dashboard-host: 127.0.0.1": ("dashboard-host: 0.0.0.0", "all addresses"),
    'num-cpus: "0"': ('num-cpus: "4"', "must not be lost"),
    "{name: MWRAY_DATA, value: /mnt/mwray/data}": ("{name: S3_PASSWORD, value: correct-horse}", "a secret is written"),
    "securityContext: *owner": ("securityContext: {runAsUser: 1000}", "is not writable"),
    "enableInTreeAutoscaling: true": ("enableInTreeAutoscaling: false", "no worker would come"),
}


@pytest.mark.parametrize("old", KUBERAY_MISTAKES)
def test_a_mistake_in_the_manifest_is_told_with_its_line(old, tmp_path):
    new, text = KUBERAY_MISTAKES[old]
    path = spoilt(CLUSTERS / "kuberay.yaml", tmp_path, old, new)
    (found,) = check(path).mistakes
    assert text in found.text and found.line == line_of(path, new)


def test_every_pod_may_write_to_the_volume(tmp_path):
    path = spoilt(CLUSTERS / "kuberay.yaml", tmp_path, "fsGroup: 100", "fsGroup: 1000")
    (found,) = check(path).mistakes  # once, though the workers' pods share the setting
    assert found.line == line_of(path, "fsGroup: 1000") and "fsGroup: 100, the group of Ray's image" in found.text


def test_a_manifest_without_policy_or_cluster(tmp_path):
    parts = filled(CLUSTERS / "kuberay.yaml").split("---\n")
    path = tmp_path / "kuberay.yaml"
    path.write_text(parts[2])
    (found,) = check(path).mistakes
    assert "NetworkPolicy" in found.text
    path.write_text(parts[0])
    (found,) = check(path).mistakes
    assert "no RayCluster" in found.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster_name: [\n", ":2: not readable as YAML"),
        ("a: 1\n b: 2\n", ":2: not readable as YAML"),
        ("- 1\n", ":1: has to be a mapping"),
        ("cluster_name: a\nmetadata:\n  1: a\n", ":3: not readable as YAML: this key is no text: put it into quotes"),
        ("cluster_name: a\nmetadata:\n  ? [a]\n  : b\n", ":3: not readable as YAML: this key"),
        ("metadata: &all\n  again: {all: *all}\n", ":1: not readable as YAML: an alias stands within"),
        ("metadata: &all\n  <<: *all\n", ":1: not readable as YAML: an alias stands within"),
        ("", "is empty"),
        ("cluster_name: a\n---\ncluster_name: b\n", "holds 2 YAML documents"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(text, message, tmp_path, capsys):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(ClusterFileError, match=re.escape(message)):
        check(path)
    assert main([str(path), str(tmp_path / "absent.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("path", (AWS, CLUSTERS / "kuberay.yaml"), ids=lambda path: path.stem)
def test_nothing_in_a_file_makes_the_check_itself_fail(path, tmp_path):
    changed = tmp_path / path.name
    for number, document in enumerate(load(path)):
        for place in [place for place in document.lines if 0 < len(place) <= 3]:
            documents = [copy.deepcopy(dict(d.data)) for d in load(path)]
            *above, last = place
            value = documents[number]
            for part in above:
                value = value[part]
            value[last] = 7 if len(place) % 2 else None
            changed.write_text(yaml.safe_dump_all(documents))
            assert check(changed).mistakes, place
