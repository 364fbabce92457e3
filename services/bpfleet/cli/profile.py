"""``bpfleet profile``: the kernels bpfleet knows, and profiles of other hosts taken from their BTF."""

import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click

from bpfleet.abi.limits import PAGE_SIZE
from bpfleet.cli.completion import names
from bpfleet.cli.inputs import OutputFile
from bpfleet.cli.listing import COUNT, Column, data_options, listing
from bpfleet.cli.output import print_json, print_table, write_file
from bpfleet.kernel.profile import PROFILES, X86_64, KernelProfile, StructSizes
from bpfleet.oracle.capture import capture
from bpfleet.oracle.vmlinux_btf import BtfError
from bpfleet.runtime.profiles import profile_from

__all__ = ["command"]

_BTF = "/sys/kernel/btf/vmlinux"


@click.group("profile")
def command() -> None:
    """Kernel profiles: what differs between kernels, as data.

    \b
    Examples:
      bpfleet profile list
      bpfleet profile show 6.12
      bpfleet profile capture -o host.toml && bpfleet compare --kernel 5.10,host.toml
    """


def _summary(profile: KernelProfile) -> dict[str, str | int]:
    return {
        "name": profile.name,
        "release": profile.release,
        "model": profile.model.value,
        "provenance": profile.provenance.value,
        "map_types": len(profile.map_types),
    }


@command.command("list")
@listing(
    Column("name", lambda p: p.name),
    Column("release", lambda p: p.release),
    Column("model", lambda p: p.model.value),
    Column("provenance", lambda p: p.provenance.value),
    Column("map types", lambda p: len(p.map_types), COUNT),
    data=_summary,
)
def list_profiles() -> Iterable[KernelProfile]:
    """The kernels bpfleet knows.

    \b
    Examples:
      bpfleet profile list
      bpfleet profile list --json
    """
    return PROFILES.values()


@command.command("show")
@click.argument("profile", shell_complete=names(lambda: PROFILES))
@data_options
def show(*, profile: str, as_json: bool) -> None:
    """Every size and flag of PROFILE, a name or a TOML file.

    \b
    Examples:
      bpfleet profile show 6.12:nobpf
      bpfleet profile show host.toml --json
    """
    try:
        found = profile_from(profile)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="PROFILE") from None
    structs = {each.name: getattr(found.structs, each.name) for each in fields(StructSizes)}
    flags = {
        each.name: getattr(found, each.name)
        for each in fields(KernelProfile)
        if each.name not in ("structs", "map_types")
    }
    types = sorted(each.name.lower() for each in found.map_types)
    if as_json:
        plain = {name: _plain(value) for name, value in flags.items()}
        print_json({"flags": plain, "structs": structs, "map_types": types})
        return
    print_table(("struct", "bytes"), ((k, f"{v:,}") for k, v in structs.items()), numbers_from=1)
    click.echo()
    print_table(("flag", "value"), ((k, _words(v)) for k, v in flags.items()), numbers_from=2)
    click.echo()
    print_table(("", ""), [("map types", ", ".join(types))], numbers_from=2)


def _plain(value: object) -> object:
    """A value of a profile for JSON: sets as sorted lists of names."""
    if isinstance(value, (frozenset, tuple)):
        return sorted((getattr(each, "name", each) for each in value), key=str)
    return value


def _words(value: object) -> str:
    """A value of a profile as people read it: numbers with separators, sets as lists of names."""
    if isinstance(value, bool) or not isinstance(value, (int, frozenset, tuple)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(sorted(str(getattr(each, "name", each)).lower() for each in value)) or "none"


@command.command("capture")
@click.option("--btf", default=_BTF, show_default=True, metavar="FILE", help="The kernel's BTF.")
@click.option("--release", default="", metavar="TEXT", help="Its release [default: this host's].")
@click.option("--name", default="", metavar="TEXT", help="What to call it [default: the release].")
@click.option(
    "-o",
    "--output",
    type=OutputFile(),
    metavar="FILE",
    help="Where to write it [default: standard output].",
)
def capture_profile(*, btf: str, release: str, name: str, output: Path | None) -> None:
    """Turns a host's BTF into a profile file that --kernel accepts.

    Struct sizes come from the BTF; behaviour from the nearest known kernel, corrected by what the BTF shows. Each line
    says where it comes from.

    \b
    Examples:
      bpfleet profile capture -o host.toml
      bpfleet profile capture --btf vmlinux.btf --release 6.8.0-45-generic --name ubuntu -o ubuntu.toml
    """
    try:
        data = Path(btf).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{btf}: {error.strerror}", param_hint="--btf") from None
    try:
        text = capture(
            data,
            release or os.uname().release,
            name=name,
            machine=os.uname().machine if btf == _BTF else X86_64,
            page_bytes=os.sysconf("SC_PAGE_SIZE") if btf == _BTF else PAGE_SIZE,
        )
    except BtfError as error:
        raise click.BadParameter(f"{btf}: {error}", param_hint="--btf") from None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--release") from None
    if output is None or str(output) == "-":
        click.echo(text, nl=False)
    else:
        write_file(output, text)
