"""A search: `python launch/tune.py --space search_spaces/weight_net.yaml --address auto`. `--help` lists everything."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
