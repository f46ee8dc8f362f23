"""Reading a search space's YAML: numbers as people write them, no key twice, errors with the file's name and line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mwray.config import ConfigError, nearest
from mwray.space.space import Space, build


def load(path: Path | str, assignments: Sequence[str] = (), seeds: int | None = None) -> Space:
    """Read and check a search space.

    Args:
        path: the YAML file; where there is none of that name, one that comes with the package ("own", "own.yaml").
        assignments: fields fixed on the command line, "data.bias.rate=0.6"; they win over the file's own `set`.
        seeds: trainings of each point, instead of the file's own number.

    Raises:
        ConfigError: the file cannot be read, or asks for something impossible; names file, field, what was given and
            the nearest valid name.
    """
    path = find(Path(path))
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}.{_others(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text; a search space is a YAML file") from None
    try:
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, TypeError) as error:  # a character that YAML has not; a key that is a list
        raise ConfigError(f"{path}: is not a YAML file of plain names and values ({error})") from None
    if not isinstance(data, dict):
        holds = "is empty" if data is None else f"holds {type(data).__name__}"
        raise ConfigError(f"{path}: {holds}, and a mapping with `recipe` and `search` is needed")
    return build(data if seeds is None else {**data, "seeds": seeds}, str(path), assignments)


class _Loader(yaml.SafeLoader):
    """Plain data only; a key given twice is an error and not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, takes 1e-3 for text because it has no point; YAML 1.2 and everybody take it for 0.001.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


SHIPPED = Path(__file__).parent / "shipped"
"""The search spaces of this package: in a checkout a link to search_spaces/, in an installed package copies."""


def find(path: Path) -> Path:
    """`path`, or else the search space of that name that comes with the package."""
    if path.exists() or path.parent not in (Path(), Path("search_spaces")):
        return path
    shipped = SHIPPED / f"{path.name.removesuffix('.yaml')}.yaml"
    return shipped.resolve() if shipped.exists() else path


def _others(path: Path) -> str:
    """What the user may have meant."""
    if path.parent == Path() and not path.suffix:  # the name of one that comes with the package
        known = sorted(found.stem for found in SHIPPED.glob("*.yaml"))
    else:
        folder = path.parent if list(path.parent.glob("*.yaml")) else SHIPPED
        known = sorted(str(found) for found in folder.glob("*.yaml"))
    hint = nearest(str(path), known)
    return hint or (f" There are: {', '.join(known)}" if known else "")
