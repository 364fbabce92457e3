"""The environment variables of our programs: a name that nobody reads is a mistake, and is refused.

A variable that is silently ignored looks like a setting that does not work.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import click

from bpfleet.rpc.settings_error import SettingsError

__all__ = ["OTHERS", "PREFIX", "Variable", "check_environment", "variables_of"]

PREFIX: Final = "BPFLEET_"

# What other programs of ours, compose files and tests read; a server may find them in its environment.
OTHERS: Final[dict[str, str]] = {
    "BPFLEET_AGENT_ADDRESS": "the command line: agent to talk to",
    "BPFLEET_AGENT_MEMORY": "the Swarm stack: memory limit of an agent",
    "BPFLEET_AGENTS": "load tests: addresses of agents, separated by commas",
    "BPFLEET_AGENTS_PER_MODEL": "compose and Swarm: agents of each model",
    "BPFLEET_API_PORT": "compose: port of the coordinator on this machine",
    "BPFLEET_CONFIG": "the command line: its configuration file",
    "BPFLEET_CONTEXT": "the command line: context of the configuration file",
    "BPFLEET_DOCKER_SETUP": ".ci/run: program that starts a Docker Engine",
    "BPFLEET_HYPOTHESIS": "tests: profile of Hypothesis",
    "BPFLEET_IMAGE": "compose, Swarm and `bpfleet up`: image of every part",
    "BPFLEET_LIVE_PORT": "compose: port of the live page on this machine",
    "BPFLEET_NODES_PER_AGENT": "compose and Swarm: nodes of an agent",
    "BPFLEET_PROBE": "the health probe: address to ask",
    "BPFLEET_SECRETS": "the Swarm stack: prefix of its secrets",
    "BPFLEET_SHAPE": "load tests: load shape",
    "BPFLEET_STANDBY_API_PORT": "compose: port of the second coordinator on this machine",
    "BPFLEET_STANDBY_LIVE_PORT": "compose: port of the second live page on this machine",
    "BPFLEET_WEB_PORT": "compose: port of Locust's page on this machine",
    "BPFLEET_WORKERS": "compose and Swarm: Locust workers",
}


class Variable(NamedTuple):
    """One variable of a command: its option, its value where none is given, what it does."""

    name: str
    option: str
    default: str
    help: str


def variables_of(command: click.Command) -> list[Variable]:
    """The variables of a command's options, in the order of its help."""
    return [
        Variable(_variable(option), max(option.opts, key=len), _default(option), option.help or "")
        for option in command.params
        if isinstance(option, click.Option) and option.envvar
    ]


def _variable(option: click.Option) -> str:
    return option.envvar if isinstance(option.envvar, str) else next(iter(option.envvar or ()))


def _default(option: click.Option) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    # click has a mark of its own for "none given".
    return str(option.default) if isinstance(option.default, (str, int, float)) else ""


def check_environment(environment: Mapping[str, str], commands: Iterable[click.Command]) -> None:
    """Raises ``SettingsError`` for a BPFLEET_ variable that none of our programs reads, and says which was meant.

    ``commands`` are asked for one by one, until all variables are known.
    """
    known = set(OTHERS)
    unknown = {name for name in environment if name.startswith(PREFIX)} - known
    rest = iter(commands)
    while unknown and (command := next(rest, None)) is not None:
        known |= {each.name for each in variables_of(command)}
        unknown -= known
    for name in sorted(unknown):
        near = difflib.get_close_matches(name, sorted(known), 1)
        meant = f"; {near[0]} is meant?" if near else ""
        raise SettingsError(f"{name}: no program of bpfleet reads this variable{meant}")
