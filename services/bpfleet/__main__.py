"""``python -m bpfleet``: the same as the ``bpfleet`` command."""

import sys

from bpfleet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
