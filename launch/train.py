"""One training: `python launch/train.py RECIPE --set method.name=base --workers 2`. `--help` lists everything."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
