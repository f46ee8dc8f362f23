"""The verb that puts a trained classifier to use. Whatever is heavy is imported inside it."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from mwray.config import ConfigError


def predict(options: argparse.Namespace) -> int:
    """Classify images or feature vectors, or the run's own test set, by a run's classifier; write a row for each."""
    if options.test == (options.images is not None):
        raise ConfigError(
            "predict: give a file of images or features (FILE.npy), a picture or a folder of them, or --test for the "
            "run's own test set"
        )
    from mwray.train.predictions import write

    logging.getLogger("mwray").setLevel(logging.INFO)  # how far it is with many pictures
    images, out = (Path(path) if path else None for path in (options.images, options.out))
    print(write(Path(options.run), images, out, device=options.device))
    return 0


def add_verbs(verbs: Any) -> None:
    """Add the verb to the subparsers of `mwray`."""
    used = verbs.add_parser("predict", help="classify images or feature vectors by a trained run")
    used.add_argument("run", metavar="RUN", help="folder of a run with a checkpoint, or of a search: its best trial")
    used.add_argument(
        "images",
        nargs="?",
        metavar="FILES",
        help="FILE.npy, uint8 [N, channels, height, width] or features [N, D]; or a picture, or a folder of pictures",
    )
    used.add_argument("--test", action="store_true", help="the run's own test set, and the accuracy on it")
    used.add_argument("--out", metavar="FILE.csv", help="default: predictions.csv in the run's folder")
    used.add_argument("--device", help="cpu, cuda (default: a GPU if there is one)")
    used.add_argument("--data", metavar="DIR", help="folder of data sets (default: $MWRAY_DATA, then data/)")
    used.set_defaults(verb=predict)
