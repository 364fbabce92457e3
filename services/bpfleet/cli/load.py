"""``bpfleet load``: Locust with bpfleet's users, shapes and page."""

import importlib.util
import os
import sys
from pathlib import Path

import click

__all__ = ["command"]


@click.command(
    "load", context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(*, arguments: tuple[str, ...]) -> None:
    """Run the load test: ARGUMENTS go to Locust as they are.

    It starts Locust on loadtest/locustfile.py of the current folder. All settings have environment
    variables; `bpfleet load -- --help` lists them.

    \b
    Examples:
      bpfleet load
      bpfleet load --headless -u 20 -r 10 -t 30s --bpfleet-agents 127.0.0.1:7071
      bpfleet load --worker --master-host locust
    """
    locustfile = Path("loadtest") / "locustfile.py"
    if not locustfile.exists():
        raise click.ClickException(f"{locustfile} is not here: run this in a checkout")
    if importlib.util.find_spec("locust") is None:
        raise click.ClickException("Locust is not installed: pip install 'bpfleet[load]'")
    program = [sys.executable, "-m", "locust", "-f", str(locustfile), *arguments]
    os.execv(sys.executable, program)
