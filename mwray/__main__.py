"""`python -m mwray VERB`."""

import sys

from mwray.cli import main

sys.exit(main())
