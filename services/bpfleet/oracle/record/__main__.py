"""``python3 -m bpfleet.oracle.record``: records on a machine that has nothing but Python."""

import sys
from pathlib import Path

from bpfleet.oracle.record.create import dump
from bpfleet.oracle.record.files import RecordingRefused, record_file


def main(arguments: list[str]) -> int:
    """``python3 -m bpfleet.oracle.record FILE [KIND]``: the recording of this kernel on standard output."""
    if not 1 <= len(arguments) <= 2:
        print(
            "usage: python3 -m bpfleet.oracle.record FILE [create|elements|perm|errno]",
            file=sys.stderr,
        )
        return 2
    try:
        kind = arguments[1] if len(arguments) == 2 else None
        for case in record_file(Path(arguments[0]), kind=kind, sysctl=True):
            print(dump(case), flush=True)
    except (RecordingRefused, ValueError, OSError) as error:
        print(f"cannot record: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
