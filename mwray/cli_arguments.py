"""Values as typed on a command line; argparse puts the flag's name before what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mwray.config import nearest


class Verb(argparse.ArgumentParser):
    """The parser of a verb: what it does not know it tells itself, with its own usage and the nearest option.

    Argparse leaves that to the parser above, whose usage names no option of the verb.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's, with nothing left over."""
        options, rest = super().parse_known_args(args, namespace)
        if rest:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            flags = [text.partition("=")[0] for text in rest if text.startswith("--")]
            hints = "".join(nearest(flag, known) for flag in flags[:1])
            self.error(f"unrecognized arguments: {' '.join(rest)}{hints and '.' + hints}")
        return options, rest


def names(text: str) -> list[str]:
    """Split "a, b,c"."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing: write one or more, with commas between them")
    return found


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def gpus(text: str) -> float:
    """A number of GPUs, or a share of one."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs: write 1, 0.5 for half of one, or 0")
    return number


def gpus_or_auto(text: str) -> float | str:
    """The same, or "auto"."""
    return text if text == "auto" else gpus(text)


def seeds(text: str) -> Sequence[int]:
    """Read "3" (three of them, 0 to 2), "3-4" or "0,2": parts of a study for different machines."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (end.strip() for end in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            found.clear()
            break
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    if text.isdecimal():
        found = list(range(int(text)))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no seed: write 5 (0 to 4), 3-4, or 0,2")
    return list(dict.fromkeys(found))
