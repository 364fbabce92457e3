"""Files and options that several commands take: scenarios, inventories, sizes, models."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from msgspec.structs import replace

from bpfleet.abi.limits import PAGE_SIZE, RLIM_INFINITY
from bpfleet.calibrate.generation import GenerationMatch, best_matches, likely_cpus
from bpfleet.captures.listings import Listing, listing_name, read_listing
from bpfleet.cli.completion import names
from bpfleet.kernel.profile import PROFILES, profile_named, says
from bpfleet.near import advice
from bpfleet.plain import json_value, toml_table
from bpfleet.plugins import PROFILES as PLUGINS
from bpfleet.plugins import plugin_names
from bpfleet.report.models import OWN
from bpfleet.report.scenario_file import read_text
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.errors import SpecError
from bpfleet.workload.quantity import parse_bytes, parse_limit
from bpfleet.workload.scenario import (
    NodeGroup,
    Scenario,
)
from bpfleet.workload.spec import Inventory, NodeShape, WorkloadSpec

__all__ = [
    "Limit",
    "OutputFile",
    "OutputFolder",
    "Size",
    "application_options",
    "cpus_of_listings",
    "default_jobs",
    "kernel_names",
    "kernel_option",
    "kernels_option",
    "read_listings",
    "read_text",
    "tell_kernels",
    "with_inventories",
    "with_limits",
]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

_FILES_MAX: Final = 1000


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on only
    """A size with units (``512M``), or ``unlimited``."""

    name = "SIZE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes; numbers pass unchanged, so that defaults may be given as such."""
        if isinstance(value, int):
            return value
        try:
            return parse_limit(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def kernels_option(
    default: str, *, note: str = "", also: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """Adds ``--kernel`` for one or several kernels, given as ``kernels`` in the order they were named.

    ``also`` are words that are taken beside names of kernels, ``note`` says what they are.
    """
    return click.option(
        "--kernel",
        "kernels",
        multiple=True,
        callback=partial(_kernels, also),
        shell_complete=names(lambda: (*PROFILES, *plugin_names(PLUGINS), *also)),
        metavar="KERNEL,...",
        help=f"Kernels by name, uname -r or profile file; commas or repeated{note} {default}.",
    )


def _kernels(
    also: Sequence[str], context: click.Context, option: click.Parameter, texts: Sequence[str]
) -> tuple[str, ...]:
    names = kernel_names(texts)
    if texts and not names:
        raise click.BadParameter(
            "'': no kernel is named; leave the option out or name one", context, option
        )
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} is named twice; name each once", context, option)
        if name not in also:
            _check_kernel(name, context, option)
    return names


def kernel_names(texts: Iterable[str]) -> tuple[str, ...]:
    """Names in texts that may hold several, separated by commas."""
    return tuple(name.strip() for text in texts for name in text.split(",") if name.strip())


def _check_kernel(name: str, context: click.Context, option: click.Parameter) -> None:
    """Says what another name than a kernel's own was taken for; a bad one ends the command."""
    try:
        tell_kernels([name])
        profile_from(name)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


def kernel_option(default: str | None = "6.12") -> Callable[[Command], Command]:
    """Adds ``--kernel`` for one kernel, given as ``kernel``."""
    return click.option(
        "--kernel",
        default=default,
        show_default=True,
        shell_complete=names(lambda: PROFILES),
        metavar="KERNEL",
        help="Kernel by name, uname -r or profile file.",
    )


def application_options(texts: Iterable[str]) -> dict[str, int]:
    """Options of an application, each ``NAME=N``."""
    return dict(map(_application_option, texts))


def _application_option(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name, parse_bytes(value)
    except ValueError:
        raise click.BadParameter(
            f"{text!r}: write NAME=N, such as pods=20", param_hint="--option"
        ) from None


class Limit(Size):
    """A limit of a container: a size that something fits into, or ``unlimited``."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes. Under less than a page not even a process starts."""
        size_bytes = super().convert(value, param, ctx)
        if size_bytes < PAGE_SIZE:
            self.fail(
                f"{value}: no process starts under less than a page (4K); use max for no limit",
                param,
                ctx,
            )
        return size_bytes


class OutputFile(click.Path):
    """A file that will be written: what keeps it from being is said before the work, not after."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """The path. Nothing is made or changed."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{path}: the folder {path.parent} does not exist; make it first", param, ctx)
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            self.fail(f"{path}: may not be written", param, ctx)
        return path


class OutputFolder(click.Path):
    """A folder that will be made or added to."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """The path. Nothing is made or changed."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        nearest = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not nearest.is_dir():
            self.fail(f"{path}: {nearest} is not a folder", param, ctx)
        if not os.access(nearest, os.W_OK):
            self.fail(f"{path}: {nearest} may not be written", param, ctx)
        return path


def default_jobs() -> int:
    """As many worker processes as this process may use CPUs."""
    return len(os.sched_getaffinity(0))


def read_listings(paths: Iterable[Path]) -> tuple[Listing, ...]:
    """One listing per file of bpftool or fdinfo output. A file that holds a list of file names stands for those.

    Says on standard error what was left out. Raises ``SpecError`` naming file, field and value; ``OSError`` for a file
    that cannot be read.
    """
    listings: list[Listing] = []
    for path in _expand(paths):
        name = _name_of(path, [listing.inventory.name for listing in listings])
        listings.append(read_listing(read_text(path), str(path), name=name))
        for line in listings[-1].warnings:
            click.echo(f"warning: {line}", err=True)
    return tuple(listings)


def cpus_of_listings(
    listings: Sequence[Listing], given: int | None, *, kernel: str | None = None
) -> int | None:
    """The CPUs the listings' memlock values tell, unless ``given``; says which kernels reproduce the values.

    Warns where the values contradict ``given``, or ``kernel``, which is said to be the host's.
    """
    told: int | None = None
    for listing in listings:
        matches = best_matches(listing.seen)
        source = listing.inventory.title.removeprefix("maps listed in ")
        click.echo(f"{source}: {_kernels_text(listing, matches)}", err=True)
        found = likely_cpus(matches)
        if given is not None and found is not None and not any(m.admits(given) for m in matches):
            click.echo(
                f"warning: {source}: its memlock values point to {matches[0].cpus_text}, not {given}",
                err=True,
            )
        if kernel is not None and matches and kernel not in {match.profile for match in matches}:
            names = ", ".join(match.profile for match in matches)
            click.echo(
                f"warning: {source}: its memlock values match {names}, not {kernel}",
                err=True,
            )
        told = told or found
    return told if given is None else given


def _kernels_text(listing: Listing, matches: Sequence[GenerationMatch]) -> str:
    shown = sum(each.memlock_bytes is not None for each in listing.seen)
    if not shown:
        return "has no memlock values, so its host's kernel and CPUs stay unknown"
    if not matches:
        return "no known kernel reproduces its memlock values; 'bpfleet profile capture' makes one that does"
    best = matches[0]
    with_cpus = f" with {best.cpus_text}" if best.cpus is not None else ""
    names = ", ".join(match.profile for match in matches)
    if best.is_exact:
        return f"all memlock values match kernel {names}{with_cpus}"
    off = ", ".join(f"{kind} {size:+,}" for kind, size in sorted(best.off.items()))
    return (
        f"memlock values match {best.profile}{with_cpus}, except for this build's structures ({off} bytes per map);"
        " 'bpfleet profile capture' on the host removes that"
    )


def with_inventories(
    scenario: Scenario,
    inventories: Iterable[Inventory],
    *,
    memory_limit_bytes: int | None,
    memlock_bytes: int | None,
    user_memory_bytes: int,
    uid: int,
    shape: NodeShape | None = None,
) -> Scenario:
    """``scenario``'s fleet with one workload per inventory on every node, in place of its own.

    ``shape`` is that of the host the listing comes from, where it is known: then all nodes have it.
    """
    workloads = tuple(
        WorkloadSpec(
            name=inventory.name,
            inventory=replace(inventory, user_memory_bytes=user_memory_bytes),
            per_node=True,
            uid=uid,
            memory_limit_bytes=memory_limit_bytes,
            memlock_bytes=memlock_bytes,
        )
        for inventory in inventories
    )
    names = ", ".join(workload.name for workload in workloads)
    nodes = scenario.nodes
    if shape is not None:
        count = sum(group.count for group in nodes)
        nodes = (
            NodeGroup(
                name="host",
                count=count,
                possible_cpus=shape.possible_cpus,
                ram_bytes=shape.ram_bytes,
            ),
        )
    return replace(
        scenario,
        nodes=nodes,
        name=f"{scenario.name}-inventory",
        title=f"{names} on every node",
        workloads=workloads,
        events=(),
    )


def with_limits(scenario: Scenario, texts: Iterable[str]) -> Scenario:
    """``scenario`` with other memory limits: each text is ``WORKLOAD=SIZE`` or a TOML file of such
    pairs.

    Raises ``SpecError`` for an unknown workload or a bad size.
    """
    limits = dict(pair for text in texts for pair in _limit_pairs(text))
    known = {workload.name for workload in scenario.workloads}
    for name in limits:
        if name not in known:
            raise SpecError("--limits", name, None, "no such workload", advice(name, sorted(known)))
    workloads = tuple(
        replace(w, memory_limit_bytes=limits[w.name]) if w.name in limits else w
        for w in scenario.workloads
    )
    return replace(scenario, workloads=workloads)


def _limit_pairs(text: str) -> Iterator[tuple[str, int | None]]:
    name, equals, value = text.partition("=")
    if equals:
        yield name.strip(), _limit(name.strip(), value)
        return
    path = Path(text)
    try:
        data = toml_table(read_text(path))
    except ValueError as error:
        raise SpecError(text, "", None, str(error), "write WORKLOAD = SIZE") from None
    for key, size in data.items():
        yield key, _limit(key, str(size), source=text)


def _limit(name: str, text: str, *, source: str = "--limits") -> int | None:
    try:
        size_bytes = parse_limit(text)
    except ValueError as error:
        problem, _, remedy = str(error).partition("; ")
        raise SpecError(source, name, text, problem, remedy) from None
    return None if size_bytes >= RLIM_INFINITY else size_bytes


def _expand(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        listed = _listed_files(path)
        found += [path] if listed is None else listed
        if len(found) > _FILES_MAX:
            raise SpecError(
                str(path), "", len(found), "too many files", f"use at most {_FILES_MAX}"
            )
    return found


def _listed_files(path: Path) -> list[Path] | None:
    """The files a JSON list of names stands for; None where ``path`` is a listing itself."""
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return None
    try:
        data = json_value(text)
    except ValueError:
        return None
    if not data or not all(isinstance(entry, str) for entry in data):
        return None
    return [path.parent / entry for entry in data]


def _name_of(path: Path, taken: list[str]) -> str:
    """A workload name from a file name; numbered where two files would share it."""
    name = listing_name(path.stem)
    if name not in taken:
        return name
    return next(f"{name}-{n}" for n in range(2, len(taken) + 3) if f"{name}-{n}" not in taken)


def tell_kernels(names: Iterable[str]) -> None:
    """Says on standard error what each name that is not a kernel's own was taken for, and how sure that is.

    Raises ``ValueError`` for an unknown one.
    """
    for name in names:
        if name == OWN or name.endswith(".toml") or "/" in name or name in plugin_names(PLUGINS):
            continue
        profile = profile_named(name)
        if profile.name != name:
            click.echo(says(name), err=True)
