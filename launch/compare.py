"""Methods beside one another: `python launch/compare.py --recipes digits,digits-flip --methods base,mwnet`."""

import sys

from mwray.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
