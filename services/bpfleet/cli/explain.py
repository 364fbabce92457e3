"""``bpfleet explain``: what an error message or errno means on each generation of kernels."""

import re
from dataclasses import asdict
from errno import errorcode

import click

from bpfleet.abi.errno import Errno
from bpfleet.api.host_kernel import own_kernel
from bpfleet.captures.charges import about_process
from bpfleet.cli.capture import this_host
from bpfleet.cli.listing import data_options
from bpfleet.cli.output import print_json, print_sureness, say
from bpfleet.cli.servers import agent_options, document_of
from bpfleet.kernel.profile import PROFILES, sureness
from bpfleet.kernel.views.explain import explain_printed
from bpfleet.kernel.views.messages import Reading, read_message
from bpfleet.kernel.views.oom_report import read_oom_report
from bpfleet.kernel.views.symptoms import (
    GENERATION_KERNELS,
    GENERATIONS,
    SYMPTOMS,
    Symptom,
    symptoms_of_errno,
)
from bpfleet.near import unknown
from bpfleet.rpc.addresses import ChannelOptions

__all__ = ["command"]

_SURENESS = sureness({name: PROFILES[name] for name in GENERATION_KERNELS})
# A refusal as the Python client's examples print it; the reason decides, as in ``ENOMEM (REASON)``.
_BECAUSE = re.compile(r"\b(E[A-Z0-9]+) \(\d+\), because ([A-Z][A-Z_]+)\b")
_CALLS = sorted({symptom.call for symptom in SYMPTOMS})


@click.command("explain")
@click.argument("text", nargs=-1)
@click.option("--errno", "errno", help="An errno by name or number (EPERM, -12, 524), or SIGKILL.")
@click.option("--call", type=click.Choice(_CALLS), default=None, help="Only causes at this call.")
@click.option("--here", is_flag=True, help="Ask this host who holds the counter; needs root.")
@click.option("--node", help="Ask this emulated node who holds the counter.")
@click.option("--pid", type=click.IntRange(1), help="The process, with --here or --node.")
@agent_options
@data_options
def command(
    *,
    text: tuple[str, ...],
    errno: str | None,
    call: str | None,
    here: bool,
    node: str | None,
    pid: int | None,
    server: ChannelOptions,
    as_json: bool,
) -> int:
    """What a message or errno of BPF memory means: limit, capability, full map, or something else.

    TEXT is the message as a log shows it, a report of the OOM killer, or a refusal as bpfleet prints it. The call it
    names decides first, then the errno, then its numbers. Exit status 1 if nothing in it is known.

    \b
    Examples:
      bpfleet explain "ENOMEM (NODE_OUT_OF_MEMORY): 2048 of 2048 MiB are in use"
      bpfleet explain "operation not permitted (MEMLOCK may be too low, consider rlimit.RemoveMemlock)"
      bpfleet explain "map create: cannot allocate memory"
      bpfleet explain --errno E2BIG --call map_update_elem
      bpfleet explain --here --pid 4711
    """
    if here or node is not None:
        status = _who(node, pid, server)
        if status or not (text or errno):
            return status
        click.echo()
    if bool(text) == bool(errno):
        raise click.UsageError("give a message, or --errno")
    message = _BECAUSE.sub(r"\1 (\2)", " ".join(text))
    report = read_oom_report(message)
    if report is not None:
        return _say(report.lines(), asdict(report), as_json=as_json)
    printed = explain_printed(message)
    if printed is not None:
        return _say(printed.lines(), asdict(printed), as_json=as_json)
    if errno:
        _check_errno(errno)
    reading = None if errno else read_message(message)
    found = symptoms_of_errno(errno, call or "") if errno else []
    if reading is not None:
        found = [s for s in reading.symptoms if call in (None, s.call)]
    if as_json:
        print_json([_data(symptom) for symptom in found])
    elif found:
        _print_all(found, reading)
        print_sureness(_SURENESS)
    else:
        _not_known(reading)
    return 0 if found else 1


def _check_errno(text: str) -> None:
    """Ends the command for what is neither the name nor the number of an errno."""
    word = text.strip().lstrip("-").upper()
    known = {name for symptom in SYMPTOMS for name in symptom.errnos()}
    known |= {each.name for each in Errno} | set(errorcode.values())
    if word.isdecimal():
        if int(word) not in errorcode and int(word) not in set(Errno):
            raise click.BadParameter(
                f"{text} is not an errno; they end at 133, with a few above 511",
                param_hint="--errno",
            )
    elif word not in known:
        raise click.BadParameter(
            unknown("errno", text, sorted(known), more="such as EPERM, 12, -524"),
            param_hint="--errno",
        )


def _who(node: str | None, pid: int | None, server: ChannelOptions) -> int:
    """Who holds the counters, on a node or on this host. Returns the exit status."""
    if node is not None:
        document = document_of(server, node)
    else:
        found = this_host()
        if found is None:
            return 1
        document = found
    say("\n".join(about_process(document, pid)))
    kernel = own_kernel(document, {})
    print_sureness(sureness({kernel.name: kernel}))
    return 0


def _say(lines: list[str], data: dict[str, object], *, as_json: bool) -> int:
    if as_json:
        print_json([data])
    else:
        say("\n".join(lines))
    return 0


def _not_known(reading: Reading | None) -> None:
    click.echo("no cause is known for this text", err=True)
    for step in reading.next_steps if reading is not None else ("try another errno or call",):
        click.echo(f"next: {step}", err=True)


def _print_all(found: list[Symptom], reading: Reading | None) -> None:
    for note in reading.notes if reading is not None else ():
        say(note)
    for number, symptom in enumerate(found):
        _print(symptom, first=number == 0)


def _print(symptom: Symptom, *, first: bool) -> None:
    if not first:
        click.echo()
    say(f"{symptom.call}: {symptom.condition}")
    for generation, answer in zip(GENERATIONS, symptom.answers, strict=True):
        say(f"  {generation + ':':<15} {answer}")
    say(f"  to do:          {symptom.advice}")


def _data(symptom: Symptom) -> dict[str, object]:
    return {
        "call": symptom.call,
        "condition": symptom.condition,
        "answers": dict(zip(GENERATIONS, symptom.answers, strict=True)),
        "advice": symptom.advice,
        "kernels": _SURENESS,
    }
