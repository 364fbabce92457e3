"""``bpfleet capture``: what runs BPF on this host, as one document."""

import os
import secrets
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from bpfleet.captures.anonymise import anonymised
from bpfleet.captures.collect import Unavailable, collect
from bpfleet.captures.document import Document, document_schema, read_document, write_document
from bpfleet.cli.inputs import OutputFile
from bpfleet.cli.output import print_json, write_file
from bpfleet.cli.servers import agent_options, document_of
from bpfleet.rpc.addresses import ChannelOptions

__all__ = ["command", "this_host"]

EXIT_FAILED: Final = 1
_KEY_BYTES: Final = 32
_BUDGET_SECONDS: Final = 30.0


@click.command("capture")
@click.option("-o", "--output", "out", type=OutputFile(), help="File to write.")
@click.option("--no-bpf", is_flag=True, help="Load no iterator; the payers are then deduced.")
@click.option("--count-elements", is_flag=True, help="Count the elements of maps too.")
@click.option(
    "--budget",
    type=click.FloatRange(0.1, 3600),
    default=_BUDGET_SECONDS,
    show_default=True,
    help="Maximum number of seconds to spend.",
)
@click.option(
    "--anonymise",
    "key_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="KEYFILE",
    help="Replace names by pseudonyms; the key is made if the file does not exist.",
)
@click.option("--node", help="Capture this emulated node instead of the host.")
@agent_options
@click.option("--script", is_flag=True, help="Print the collector as one Python file instead.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of a document instead.")
def command(
    *,
    out: Path | None,
    no_bpf: bool,
    count_elements: bool,
    budget: float,
    key_file: Path | None,
    node: str | None,
    server: ChannelOptions,
    script: bool,
    schema: bool,
) -> int:
    """Captures what runs BPF on this host, read-only, as root: maps, programs, who holds and who pays.

    Nothing of environments, arguments, files or contents of maps is read. --script prints the same collector for hosts
    where nothing may be installed: standard library only, Python 3.6 and later.

    \b
    Examples:
      bpfleet capture -o here.json
      bpfleet capture --script > capture.py; ssh host sudo python3 - < capture.py > host.json
      bpfleet capture --anonymise my.key -o here.json
    """
    if script:
        click.echo(files("bpfleet.captures").joinpath("collect.py").read_text("utf-8"), nl=False)
        return 0
    if schema:
        print_json(document_schema())
        return 0
    if node is not None:
        document = document_of(server, node)
    else:
        found = this_host(no_bpf=no_bpf, count_elements=count_elements, budget=budget)
        if found is None:
            return EXIT_FAILED
        document = found
    if key_file is not None:
        document = anonymised(document, _key(key_file))
    text = write_document(document).decode()
    if out is None:
        click.echo(text, nl=False)
    else:
        write_file(out, text)
        click.echo(f"{out}: {_summary(document)}", err=True)
    return 0


def this_host(
    *, no_bpf: bool = False, count_elements: bool = False, budget: float = _BUDGET_SECONDS
) -> Document | None:
    """The document of this host; None, with one line on standard error, where there is none."""
    try:
        # Any: what the collector made, before it is checked against the schema.
        plain: Mapping[str, Any] = collect(not no_bpf, count_elements, budget)
    except Unavailable as error:
        click.echo(f"bpfleet: this host cannot be captured: {error}", err=True)
        return None
    document = read_document(msgspec.json.encode(plain), "this host")
    for note in document.notes:
        click.echo(f"note: {note}", err=True)
    if not document.charges.read:
        click.echo(f"note: who pays is deduced: {document.charges.why_not}", err=True)
    return document


def _summary(document: Document) -> str:
    return (
        f"{len(document.maps)} maps, {len(document.programs)} programs, {len(document.processes)} processes,"
        f" {len(document.cgroups)} cgroups in {document.seconds:g} s"
    )


def _key(path: Path) -> bytes:
    if path.exists():
        key = path.read_bytes().strip()
        if len(key) < _KEY_BYTES:
            raise click.BadParameter(f"{path} holds no key", param_hint="--anonymise")
        return key
    key = secrets.token_hex(_KEY_BYTES).encode()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key + b"\n")
    return key
