"""``bpfleet load``: Locust with bpfleet's users, shapes and page."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, final

import click

__all__ = ["command"]

_LOCUSTFILE: Final = Path("loadtest") / "locustfile.py"


@final
class _Load(click.Command):
    """Appends the load test's own options to the help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Locust's own --help knows none of them."""
        if _LOCUSTFILE.exists():
            command = [sys.executable, "-m", "loadtest.options"]
            told = subprocess.run(command, capture_output=True, text=True, check=True)
            formatter.write("\n" + told.stdout)


@click.command(
    "load",
    cls=_Load,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(*, arguments: tuple[str, ...]) -> None:
    """Run the load test: ARGUMENTS go to Locust as they are.

    It starts Locust on loadtest/locustfile.py of the current folder, which has to be a checkout. All
    settings have environment variables.

    \b
    Examples:
      bpfleet load
      bpfleet load --headless -u 20 -r 10 -t 30s --bpfleet-agents 127.0.0.1:7071
      bpfleet load --headless -u 40 -r 40 -t 1m --load-shape step-to-failure --tags tenant
      bpfleet load --headless -u 20 -t 1m --outcomes out.json --fail-if '6.12:ENOMEM>0.05'
      bpfleet load --worker --master-host locust
      python -m loadtest.replay --kind tenant --seed 1 --lane 0 --model 6.12
    """
    if not _LOCUSTFILE.exists():
        raise click.ClickException(f"{_LOCUSTFILE} is not here: run this in a checkout")
    if importlib.util.find_spec("locust") is None:
        raise click.ClickException("Locust is not installed: pip install 'bpfleet[load]'")
    program = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), *arguments]
    os.execv(sys.executable, program)
