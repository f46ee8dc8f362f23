"""Tables and figures from finished runs: `python launch/report.py runs/studies`. `--help` lists everything."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
