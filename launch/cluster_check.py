"""Check a cluster file before anything is paid for: `python launch/cluster_check.py cluster.yaml`."""

import sys

from mwray.cluster.check.command import main

if __name__ == "__main__":
    sys.exit(main())
