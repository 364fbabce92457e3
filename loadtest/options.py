"""Settings of a load test, each from the command line or from an environment variable.

Locust parses its command line after it has loaded the locustfile, but the choice of a shape decides what the locustfile
offers: ``early_shape`` reads that one setting ahead of time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from bpfleet.abi.errno import Errno
from bpfleet.abi.limits import RLIM_INFINITY
from bpfleet.workload.catalogue import applications as known_applications
from bpfleet.workload.quantity import parse_limit
from loadtest.shapes import SHAPES

__all__ = [
    "STEP_TO_FAILURE",
    "LoadOptions",
    "OptionError",
    "add_arguments",
    "described",
    "early_shape",
]

STEP_TO_FAILURE: Final = "step-to-failure"
T = TypeVar("T")
_SHAPE_NAMES: Final = (*sorted(SHAPES), STEP_TO_FAILURE)
_BATCH_MAX: Final = 4096
_ELEMENTS_MAX: Final = 8192


class OptionError(Exception):
    """One line for people: the option, its value, what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The settings, checked. Sizes are bytes; an empty ``models`` stands for all there are.

    ``limit_bytes`` None: no memory.max. ``memlock_bytes`` None: the node's default; RLIM_INFINITY: unlimited.
    """

    agents: tuple[str, ...]
    coordinators: tuple[str, ...]
    models: tuple[str, ...]
    pin: tuple[str, ...]
    applications: tuple[str, ...]
    seed: int
    batch: int
    elements: int
    limit_bytes: int | None
    memlock_bytes: int | None
    think_seconds: float
    outcomes_file: str
    fail_if: tuple[tuple[str, str, float], ...]
    weights: dict[str, int]
    transport_failures_max: int
    shape_steps: int
    shape_bad_share: float

    @classmethod
    def parsed(cls, options: Any) -> LoadOptions:
        """From what Locust parsed. Raises ``OptionError``."""
        applications = _words(options.applications)
        unknown = [name for name in applications if name not in known_applications()]
        if unknown or not applications:
            raise OptionError(
                f"--applications {options.applications!r}: use some of "
                + ", ".join(known_applications())
            )
        return cls(
            agents=_words(options.bpfleet_agents),
            coordinators=_words(options.bpfleet_coordinator),
            models=_words(options.kernel),
            pin=_words(options.pin),
            applications=applications,
            seed=_number("--seed", options.seed, 0, 2**63 - 1),
            batch=_number("--batch", options.batch, 1, _BATCH_MAX),
            elements=_number("--elements", options.elements, 1, _ELEMENTS_MAX),
            limit_bytes=size_of("--memory-max", options.memory_max, memory_max_of, ", or max"),
            memlock_bytes=size_of(
                "--memlock", options.memlock, memlock_of, ", default or unlimited"
            ),
            think_seconds=_number("--think-ms", options.think_ms, 0, 3_600_000) / 1000,
            outcomes_file=_writable("--outcomes", options.outcomes),
            fail_if=tuple(_threshold(word) for word in _words(options.fail_if)),
            weights=dict(_weight(word) for word in _words(options.weights)),
            transport_failures_max=_number(
                "--transport-failures-max", options.transport_failures_max, 0, 2**31
            ),
            shape_steps=_number("--shape-steps", options.shape_steps, 1, 1000),
            shape_bad_share=_number("--shape-bad-percent", options.shape_bad_percent, 1, 100) / 100,
        )


def early_shape(arguments: Sequence[str]) -> str:
    """The shape named on the command line or in BPFLEET_SHAPE; empty where Locust's own -u, -r and
    -t decide. Raises ``OptionError`` for an unknown one.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--load-shape", default=os.environ.get("BPFLEET_SHAPE", ""))
    shape: str = parser.parse_known_args(list(arguments))[0].load_shape
    if shape and shape not in _SHAPE_NAMES:
        raise OptionError(f"--load-shape {shape!r}: use one of {', '.join(_SHAPE_NAMES)}")
    return shape


class _Option(NamedTuple):
    name: str
    default: str | int
    text: str
    in_page: bool = True

    @property
    def variable(self) -> str:
        """The environment variable that sets it, too."""
        return "BPFLEET_" + _VARIABLES.get(self.name, self.name.replace("-", "_").upper())


_VARIABLES: Final = {
    "bpfleet-agents": "AGENTS",
    "bpfleet-coordinator": "COORDINATOR",
    "kernel": "LOAD_KERNEL",  # an agent of the same environment has one of its own
    "load-shape": "SHAPE",
}
_OPTIONS: Final = (
    _Option("bpfleet-agents", "", "Node agents, host:port, separated by commas"),
    _Option("bpfleet-coordinator", "127.0.0.1:7070", "Coordinators; asked for the agents if none"),
    _Option("kernel", "", "Only nodes with these kernels, separated by commas (all)"),
    _Option("pin", "", "Bind workloads that are submitted to these kernels in turn"),
    _Option("applications", "katran,falco,bcc-execsnoop,tetragon", "Applications whose maps churn"),
    _Option("seed", 1, "Seed of all operations"),
    _Option("batch", 256, f"Calls in one message, up to {_BATCH_MAX}"),
    _Option("elements", 1024, f"Map elements in one kernel batch command, up to {_ELEMENTS_MAX}"),
    _Option("memory-max", "64M", "memory.max of each user's cgroup, or max"),
    _Option(
        "memlock",
        "unlimited",
        "RLIMIT_MEMLOCK of each user's process: unlimited, as loaders set it, bytes, or the kernel's default",
    ),
    _Option("think-ms", 10, "Pause between two messages of a user"),
    _Option("load-shape", "", f"Load over time: {', '.join(_SHAPE_NAMES)}", in_page=False),
    _Option("shape-steps", 10, "Steps of step-to-failure"),
    _Option("shape-bad-percent", 5, "Share of bad verdicts at which step-to-failure stops a model"),
    # In the page kinds of users and shapes are chosen from lists.
    _Option("weights", "", "Share of each kind of user, such as element=4,tenant=0", in_page=False),
    _Option("outcomes", "", "Write outcomes to FILE.json or FILE.csv at the end", in_page=False),
    _Option("fail-if", "", "Exit 1 if passed, for example 6.12:ENOMEM>0.05"),
    _Option("transport-failures-max", 0, "Exit 1 above this many transport failures"),
)


def add_arguments(parser: Any) -> None:
    """Add the options to Locust's parser; most of them also appear in its web page."""
    for option in _OPTIONS:
        parser.add_argument(
            f"--{option.name}",
            env_var=option.variable,
            default=option.default,
            type=type(option.default),
            help=f"{option.text} [{option.variable}]",
            include_in_web_ui=option.in_page,
        )


def described() -> str:
    """The options for people; Locust's own --help lists none of a locustfile's."""
    lines = ["Options of the load test, on the command line or as variables:"]
    for option in _OPTIONS:
        default = f" [default: {option.default}]" if option.default != "" else ""
        lines += [f"  --{option.name}  {option.variable}", f"      {option.text}{default}"]
    lines += [
        "Locust's own that matter most:",
        "  -u, --users  LOCUST_USERS; -r, --spawn-rate  LOCUST_SPAWN_RATE; -t, --run-time  LOCUST_RUN_TIME",
        "  --tags, --exclude-tags  LOCUST_TAGS, LOCUST_EXCLUDE_TAGS: kinds of users",
        "  --headless, --master, --worker, --web-port, --html FILE, --csv PREFIX; all: locust --help",
    ]
    return "\n".join(lines)


def memlock_of(text: str) -> int | None:
    """RLIMIT_MEMLOCK: None for ``default``, RLIM_INFINITY for ``unlimited``, else bytes. Raises ``ValueError``."""
    return None if text.strip() == "default" else parse_limit(text)


def memory_max_of(text: str) -> int | None:
    """memory.max in bytes; None for ``max``. Raises ``ValueError``."""
    size_bytes = parse_limit(text)
    return None if size_bytes == RLIM_INFINITY else size_bytes


def size_of(option: str, text: str, parse: Callable[[str], T], words: str) -> T:
    """What ``parse`` makes of an option's text. Raises ``OptionError``."""
    try:
        return parse(text)
    except ValueError:
        raise OptionError(
            f"{option} {text!r}: use a number of bytes such as 65536, 64M{words}"
        ) from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _number(option: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise OptionError(f"{option} {value}: use {low} to {high}")
    return value


def _writable(option: str, name: str) -> str:
    """A file that could be written now is better known to be one before the test than after it."""
    if name and (not Path(name).parent.is_dir() or Path(name).is_dir()):
        raise OptionError(f"{option} {name!r}: name a file in a directory that exists")
    return name


def _weight(word: str) -> tuple[str, int]:
    kind, _, digits = word.partition("=")
    if not kind or not digits.isascii() or not digits.isdigit():
        raise OptionError(f"--weights {word!r}: use KIND=WEIGHT such as tenant=2")
    return kind, _number(f"--weights {kind}", int(digits), 0, 10_000)


def _threshold(word: str) -> tuple[str, str, float]:
    """``6.12:ENOMEM>0.05``: model, errno, share of the model's calls."""
    cell, mark, share = word.partition(">")
    model, colon, errno = cell.rpartition(":")
    try:
        limit = float(share)
    except ValueError:
        limit = -1.0
    known = errno in Errno.__members__
    if not (mark and colon and model and known) or not 0.0 <= limit <= 1.0:
        raise OptionError(f"--fail-if {word!r}: use MODEL:ERRNO>SHARE such as 6.12:ENOMEM>0.05")
    return model, errno, limit


if __name__ == "__main__":
    print(described())
