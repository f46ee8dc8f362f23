"""The exact versions of constraints.txt, and what a command or an image has instead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mwray.cluster.check.document import ClusterFileError

CONSTRAINTS = Path(__file__).parents[3] / "constraints.txt"
PYTHONS = ("311", "312")
"""As image tags write them; pyproject.toml allows these."""

_PINNED = re.compile(r"(?<![\w.-])([A-Za-z][\w.-]*?)(?:\[[\w,-]+\])?==([\w.]+)")
_BARE = re.compile(r"(?<=[\s'\"])([A-Za-z][\w.-]*?)(?:\[[\w,-]+\])?(?:[<>~!]=?[\w.]+)?(?=[\s'\"]|$)")


def pins(path: Path = CONSTRAINTS) -> dict[str, str]:
    """Version of each distribution, by its normalised name.

    Raises:
        ClusterFileError: there is no such file.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ClusterFileError(f"{path}: {error.strerror}; run this from a checkout of mwray") from None
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


def normal(name: str) -> str:
    """A distribution's name in the one spelling that package indexes compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of_command(command: str, pinned: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the versions that a shell command installs."""
    for name, version in _PINNED.findall(command):
        wanted = pinned.get(normal(name))
        if wanted is not None and version != wanted:
            yield f"installs {name} {version}, where constraints.txt has {wanted}"
    if re.search(r"\bray[\w./-]*\.whl", command):
        yield f"installs Ray from a wheel; constraints.txt has ray=={pinned['ray']}"
        return
    if "pip install" not in command or re.search(r"\s(-c|--constraint)\b", command):
        return
    for name in _BARE.findall(command.partition("pip install")[2]):
        if normal(name) in pinned and not re.search(rf"{re.escape(name)}(\[[\w,-]+\])?==", command):
            wanted = pinned[normal(name)]
            yield f"installs whatever version of {name} is newest; write {name}=={wanted} or `-c constraints.txt`"


def of_image(image: str, pinned: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the Ray version in a container image's tag."""
    tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else ""
    if not re.search(rf"(?<![\d.]){re.escape(pinned['ray'])}(?![\d.])", tag):
        yield f"{image}: the tag has to name Ray {pinned['ray']}, the version of constraints.txt"
    elif image.startswith("rayproject/ray:") and not any(f"-py{python}" in tag for python in PYTHONS):
        yield f"{image}: name the Python in the tag, for example rayproject/ray:{pinned['ray']}-py311"
