"""``bpfleet load``: Locust with bpfleet's users, shapes and page."""

import importlib.util
import os
import subprocess
import sys
from typing import final

import click

from bpfleet.shipped import LOAD_TEST, shipped

__all__ = ["command"]


@final
class _Load(click.Command):
    """Appends the load test's own options to the help."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Locust's own --help knows none of them."""
        command = [sys.executable, "-m", "loadtest.options"]
        told = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=True
        )
        formatter.write("\n" + told.stdout)


@click.command(
    "load",
    cls=_Load,
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(*, arguments: tuple[str, ...]) -> None:
    """Run the load test: ARGUMENTS go to Locust as they are.

    It starts Locust with bpfleet's kinds of users, shapes and page. All settings have environment
    variables. With --replay in front it plays one lane again without a network, as an own program.

    \b
    Examples:
      bpfleet load
      bpfleet load --headless -u 20 -r 10 -t 30s --bpfleet-agents 127.0.0.1:7071
      bpfleet load --headless -u 40 -r 40 -t 1m --load-shape step-to-failure --tags tenant
      bpfleet load --headless -u 20 -t 1m --outcomes out.json --fail-if '6.12:ENOMEM>0.05'
      bpfleet load --worker --master-host locust
      bpfleet load --replay --kind tenant --seed 1 --lane 0 --kernel 6.12
    """
    if arguments[:1] == ("--replay",):
        replay = [sys.executable, "-m", "loadtest.replay", *arguments[1:]]
        os.execve(sys.executable, replay, _environment())
    if importlib.util.find_spec("locust") is None:
        raise click.ClickException("Locust is not installed: pip install 'bpfleet[load]'")
    locustfile = str(shipped(LOAD_TEST) / "locustfile.py")
    program = [sys.executable, "-m", "locust", "-f", locustfile, *arguments]
    os.execve(sys.executable, program, _environment())


def _environment() -> dict[str, str]:
    """Where ``loadtest`` is found wherever this is run, and what was there before."""
    place = str(shipped(LOAD_TEST).parent)
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{place}:{before}" if before else place}
