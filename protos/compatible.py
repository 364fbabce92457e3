"""Lint the messages, and compare them with those of the last release: what breaks a client must not slip in.

    python protos/compatible.py            exit with status 1 and what buf says

``README.md`` beside this file says what is promised. Before the first release there is nothing to compare with.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

PROTO_ROOT = Path(__file__).resolve().parent
BUF = Path(sysconfig.get_path("scripts")) / "buf"
_RELEASES = "v[0-9]*"


def main(repository: Path = PROTO_ROOT.parent) -> int:
    """Run buf's lint and its check for breaking changes; the exit status is 1 where either finds something."""
    tag = last_release(repository)
    commands = [["lint", "protos"]]
    if tag:
        commands.append(["breaking", "protos", "--against", f".git#tag={tag},subdir=protos"])
    else:
        print("no release yet: nothing to be compatible with", file=sys.stderr)
    done = [subprocess.run([BUF, *each], cwd=repository, check=False) for each in commands]
    return int(any(each.returncode for each in done))


def last_release(repository: Path) -> str:
    """The newest release tag before HEAD; empty where there is none."""
    command = ["git", "describe", "--tags", "--abbrev=0", "--match", _RELEASES]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    return found.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
