"""``bpfleet explain``: what an error message or errno means on each generation of kernels."""

from dataclasses import asdict

import click

from bpfleet.cli.output import print_json
from bpfleet.kernel.views.explain import explain_printed
from bpfleet.kernel.views.symptoms import (
    GENERATIONS,
    SYMPTOMS,
    Symptom,
    symptoms_of_errno,
    symptoms_of_text,
)

__all__ = ["command"]

_CALLS = sorted({symptom.call for symptom in SYMPTOMS})


@click.command("explain")
@click.argument("text", nargs=-1)
@click.option("--errno", "errno", help="An errno by name (EPERM), or 524, or SIGKILL.")
@click.option("--call", type=click.Choice(_CALLS), default=None, help="Only at this call.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, text: tuple[str, ...], errno: str | None, call: str | None, as_json: bool) -> int:
    """What a message or errno of BPF memory means: limit, capability, full map, or something else.

    TEXT is the message as a log shows it, or a refusal as bpfleet prints it: then its numbers are explained too.
    Exit status 1 when nothing in it is known.

    \b
    Examples:
      bpfleet explain "ENOMEM (NODE_OUT_OF_MEMORY): 2048 of 2048 MiB are in use"
      bpfleet explain "operation not permitted (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"
      bpfleet explain "map create: cannot allocate memory"
      bpfleet explain --errno E2BIG --call map_update_elem
    """
    if bool(text) == bool(errno):
        raise click.UsageError("give a message, or --errno")
    printed = explain_printed(" ".join(text))
    if printed is not None:
        if as_json:
            print_json([asdict(printed)])
        else:
            click.echo("\n".join(printed.lines()))
        return 0
    if errno is None:
        found = [s for s in symptoms_of_text(" ".join(text)) if call in (None, s.call)]
    else:
        found = symptoms_of_errno(errno, call or "")
    if as_json:
        print_json([_data(symptom) for symptom in found])
        return 0 if found else 1
    if not found:
        click.echo("no known error in this text; try --errno NAME", err=True)
        return 1
    for number, symptom in enumerate(found):
        _print(symptom, first=number == 0)
    return 0


def _print(symptom: Symptom, *, first: bool) -> None:
    if not first:
        click.echo()
    click.echo(f"{symptom.call}: {symptom.condition}")
    for generation, answer in zip(GENERATIONS, symptom.answers, strict=True):
        click.echo(f"  {generation + ':':<15} {answer}")
    click.echo(f"  to do:          {symptom.advice}")


def _data(symptom: Symptom) -> dict[str, object]:
    return {
        "call": symptom.call,
        "condition": symptom.condition,
        "answers": dict(zip(GENERATIONS, symptom.answers, strict=True)),
        "advice": symptom.advice,
    }
