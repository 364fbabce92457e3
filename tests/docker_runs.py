"""Running docker commands in tests, and looking for what they left behind."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str, seconds: float = 120, env: dict[str, str] | None = None) -> str:
    """Run a command in the repository; its output, or a failure that shows it."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **(env or {})},
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _lists(*command: str) -> set[str]:
    return set(run("docker", *command).split())


def leftovers(label: str) -> set[str]:
    """Containers, networks and volumes with a label."""
    chosen = ("--filter", f"label={label}", "--format", "{{.Name}}")
    containers = _lists("ps", "-a", "--filter", f"label={label}", "--format", "{{.Names}}")
    return containers | _lists("network", "ls", *chosen) | _lists("volume", "ls", *chosen)
