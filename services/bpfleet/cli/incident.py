"""``bpfleet incident``: the museum of real incidents, expected beside observed."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click

from bpfleet.cli import completion
from bpfleet.cli.inputs import kernels_option
from bpfleet.cli.listing import Column, data_options, listing
from bpfleet.cli.output import print_json, print_sureness, print_table, say
from bpfleet.kernel.profile import sureness
from bpfleet.near import unknown
from bpfleet.oracle.incidents.files import (
    Finding,
    Incident,
    IncidentError,
    read_incidents,
    run_incident,
)
from bpfleet.progress import progress
from bpfleet.shipped import INCIDENTS, shipped

__all__ = ["command"]

EXIT_DIFFERS: Final = 1
_directory_option = click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of incident files [default: built-in].",
)
_json_option = data_options


@click.group("incident")
def command() -> None:
    """Real incidents: their source, their set-up, and what each accounting model makes of them.

    \b
    Examples:
      bpfleet incident list
      bpfleet incident show s09
      bpfleet incident run s09 --kernel 5.10,6.12
      bpfleet incident run --all
    """


@command.command("list")
@_directory_option
@listing(
    Column("id", lambda i: i.id),
    Column("name", lambda i: i.name),
    Column("title", lambda i: i.title, shrinks=True),
    data=lambda i: _summary(i),
    name=lambda i: i.name,
)
def list_incidents(*, directory: Path | None) -> Iterable[Incident]:
    """All incidents.

    \b
    Examples:
      bpfleet incident list
      bpfleet incident list --json
    """
    return _read(directory)


@command.command("show")
@click.argument("name", shell_complete=completion.names(lambda: _names()))
@_directory_option
@_json_option
def show(*, name: str, directory: Path | None, as_json: bool) -> None:
    """One incident: story, source, corrections, steps. NAME is its name, the beginning of it, or its id.

    \b
    Examples:
      bpfleet incident show s05-backport-deceives-the-probe
      bpfleet incident show S05 --json
    """
    incident = _find(_read(directory), name)
    if as_json:
        print_json({**_summary(incident), "steps": [dict(step) for step in incident.steps]})
        return
    say(f"{incident.id} {incident.title}\n\nSource: {incident.source}\n\n{incident.story}")
    if incident.correction:
        say(f"\nCorrection: {incident.correction}")
    say(f"\nModels: {', '.join(incident.models)}")
    say(f"Cases: {', '.join(str(c.get('case', 'one')) for c in incident.cases)}")
    for number, step in enumerate(incident.steps, 1):
        words = ", ".join(f"{key}={value}" for key, value in step.items() if key != "do")
        say(f"{number:3} {step['do']}: {words}")


@command.command("run")
@click.argument(
    "names", nargs=-1, metavar="[NAME]...", shell_complete=completion.names(lambda: _names())
)
@click.option("--all", "every", is_flag=True, help="Run every incident.")
@kernels_option("[default: those of the incident]")
@_directory_option
@_json_option
def run(
    *,
    names: tuple[str, ...],
    every: bool,
    kernels: tuple[str, ...],
    directory: Path | None,
    as_json: bool,
) -> int:
    """Runs incidents and prints what was expected beside what was observed. Exit status 1 on a difference.

    \b
    Examples:
      bpfleet incident run s21-flood-to-the-limit
      bpfleet incident run s09 s30 --kernel 6.12
      bpfleet incident run --all --kernel host.toml
      bpfleet incident run --all --json
    """
    if every == bool(names):
        raise click.UsageError("name incidents to run, or give --all")
    incidents = _read(directory)
    chosen = incidents if every else [_find(incidents, name) for name in names]
    results: list[tuple[Incident, list[Finding]]] = []
    try:
        with progress("incidents", len(chosen)) as advance:
            for incident in chosen:
                results.append((incident, _run(incident, kernels)))
                advance()
    finally:
        # Also what was found out before Ctrl-C.
        _report(results, every=every, as_json=as_json)
    return EXIT_DIFFERS if any(not f.agrees for _, found in results for f in found) else 0


def _report(
    results: Sequence[tuple[Incident, list[Finding]]], *, every: bool, as_json: bool
) -> None:
    if as_json:
        print_json([_result(incident, findings) for incident, findings in results])
    elif every:
        _print_summary(results)
    else:
        for incident, findings in results:
            _print_findings(incident, findings)
    if not as_json:
        print_sureness(_sureness(f for _, found in results for f in found))


def _read(directory: Path | None) -> list[Incident]:
    where = directory or (shipped(INCIDENTS))
    try:
        return read_incidents(where)
    except IncidentError as error:
        raise click.UsageError(str(error)) from None


def _names() -> list[str]:
    return [incident.name for incident in _read(None)]


def _find(incidents: Sequence[Incident], name: str) -> Incident:
    wanted = name.lower()
    found = [i for i in incidents if i.name.startswith(wanted) or i.id.lower() == wanted]
    if not found:
        known = [i.name for i in incidents] + [i.id for i in incidents]
        raise click.UsageError(
            unknown("incident", name, known, more="'bpfleet incident list' has all")
        )
    if len(found) != 1:
        names = ", ".join(i.name for i in found)
        raise click.UsageError(f"{name!r} may be several incidents: {names}")
    return found[0]


def _run(incident: Incident, models: Sequence[str]) -> list[Finding]:
    try:
        return list(run_incident(incident, models))
    except IncidentError as error:
        raise click.UsageError(str(error)) from None


def _print_findings(incident: Incident, findings: Iterable[Finding]) -> None:
    say(f"{incident.id} {incident.title}")
    print_table(
        ("model", "case", "step", "observation", "expected", "observed", ""),
        (
            (
                f.model,
                f.case,
                f.place,
                f.observation,
                str(f.expected),
                str(f.observed),
                "" if f.agrees else "DIFFERS",
            )
            for f in findings
        ),
        numbers_from=7,
    )


def _print_summary(results: Sequence[tuple[Incident, list[Finding]]]) -> None:
    print_table(
        ("id", "name", "checks", "differ"),
        (
            (i.id, i.name, f"{len(found)}", f"{sum(not f.agrees for f in found)}")
            for i, found in results
        ),
        numbers_from=2,
    )
    for incident, findings in results:
        differing = [f for f in findings if not f.agrees]
        if differing:
            _print_findings(incident, differing)
    checks = sum(len(found) for _, found in results)
    differing_count = sum(not f.agrees for _, found in results for f in found)
    click.echo(f"{len(results)} incidents, {checks} checks, {differing_count} differences")


def _summary(incident: Incident) -> dict[str, object]:
    return {
        "id": incident.id,
        "name": incident.name,
        "title": incident.title,
        "source": incident.source,
        "story": incident.story,
        "correction": incident.correction,
        "models": list(incident.models),
    }


def _sureness(findings: Iterable[Finding]) -> dict[str, str]:
    return sureness({finding.model: finding.profile for finding in findings})


def _result(incident: Incident, findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "id": incident.id,
        "name": incident.name,
        "kernels": _sureness(findings),
        "findings": [
            {
                "model": f.model,
                "case": f.case,
                "step": f.place,
                "observation": f.observation,
                "expected": f.expected,
                "observed": f.observed,
                "agrees": f.agrees,
            }
            for f in findings
        ],
    }
