"""A weight net carried over: `python launch/transfer.py --source digits --target digits-flip`. `--help` lists more."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["transfer", *sys.argv[1:]]))
