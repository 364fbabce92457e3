"""Results of nodes kept in a directory, so that a long comparison goes on where it was stopped.

A directory belongs to one run: scenario, models, their profiles and version, told by a digest. Each
node is one file, written whole; a file that cannot be read back counts as absent and its node runs
again.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bpfleet.report.models import kernels_of
from bpfleet.report.results import NodeResult
from bpfleet.version import __version__
from bpfleet.workload.codec import from_data, to_data
from bpfleet.workload.scenario import Scenario

__all__ = ["ResultFolder", "run_digest", "write_whole"]

_MARK: Final = "run.txt"


class ResultFolder:
    """The kept results of one run. Raises ``ValueError`` where the directory holds those of
    another.
    """

    def __init__(self, folder: Path, scenario: Scenario, models: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder: Final = folder
        digest = run_digest(scenario, models)
        mark = folder / _MARK
        if mark.exists():
            if mark.read_text("utf-8").strip() != digest:
                raise ValueError(
                    f"{folder}: holds results of another scenario, seed, model or version; "
                    "name an empty directory"
                )
            return
        if any(folder.iterdir()):
            raise ValueError(f"{folder}: holds other files; name an empty directory")
        write_whole(mark, digest.encode())

    def load(self, node: str) -> NodeResult | None:
        """The kept result of ``node``; None where there is none that can be read."""
        path = self._path(node)
        try:
            found = from_data(NodeResult, json.loads(path.read_bytes()), str(path))
        except (OSError, ValueError):
            return None
        return found if found.node == node else None

    def save(self, result: NodeResult) -> None:
        """Keeps a result. Raises ``OSError``."""
        write_whole(self._path(result.node), json.dumps(to_data(result)).encode())

    def _path(self, node: str) -> Path:
        return self._folder / f"{node}.json"


def run_digest(scenario: Scenario, models: Sequence[str]) -> str:
    """Stands for all that the results depend on: scenario, models with their profiles, version."""
    profiles = [
        [to_data(profile) for profile in found.values()]
        for found in kernels_of(scenario, models).values()
    ]
    run = [__version__, to_data(scenario), list(models), profiles]
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all. Raises ``OSError`` that names ``path``."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
