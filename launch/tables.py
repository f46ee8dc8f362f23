"""The paper's tables: `python launch/tables.py --table 3 --preset digits --seeds 3`. `--help` lists everything."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["tables", *sys.argv[1:]]))
