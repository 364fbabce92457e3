"""``bpfleet config``: the configuration file and its contexts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import click

from bpfleet.cli.listing import Column, Rows, listing
from bpfleet.cli.settings import (
    KEYS,
    chosen_context,
    configuration,
    configuration_file,
    save,
)
from bpfleet.near import unknown

__all__ = ["command"]

# One context of the file: its name, whether it is the current one, what it says.
_Context = tuple[str, bool, Mapping[str, str]]


@click.group("config")
def command() -> None:
    """The configuration file: servers and habits by context, so that options need not be repeated.

    Options win over environment variables, and these over the file.

    \b
    Examples:
      bpfleet config set coordinator 10.0.0.1:7070
      bpfleet --context lab config set agent 10.0.0.7:7071
      bpfleet config use-context lab
      bpfleet config view
    """


def _value(key: str) -> Column:
    # Any: a row, as in listings.
    def value(row: Any) -> str:
        return str(row[2].get(key, ""))

    return Column(key.replace("_", " "), value, folds=True, priority=list(KEYS).index(key))


_COLUMNS: Final = (
    Column("context", lambda c: c[0]),
    Column("current", lambda c: c[1], show=lambda v: "*" if v else ""),
    *map(_value, KEYS),
)


@command.command("view")
@listing(*_COLUMNS)
def view() -> Rows:
    """The file: every context and what it says.

    \b
    Examples:
      bpfleet config view
      bpfleet config view -o yaml
    """
    found = configuration()
    rows: list[_Context] = [
        (name, name == found.current, values) for name, values in sorted(found.contexts.items())
    ]
    return Rows(
        rows=rows,
        document={
            "file": str(configuration_file()),
            "current": found.current,
            "contexts": {name: dict(values) for name, values in found.contexts.items()},
        },
        above=f"{configuration_file()}{'' if rows else ': not there yet; bpfleet config set KEY VALUE makes it'}",
    )


@command.command("set")
@click.argument("key")
@click.argument("value")
def set_value(*, key: str, value: str) -> None:
    """Sets KEY of the current context, or of that of --context, which is made if it is not there.

    KEY is coordinator, agent, token_file, tls_ca, tls_cert, tls_key or output. An empty VALUE removes it.

    \b
    Examples:
      bpfleet config set coordinator 10.0.0.1:7070,10.0.0.2:7070
      bpfleet config set output wide
      bpfleet --context lab config set token_file ~/.config/bpfleet/lab.token
    """
    if key not in KEYS:
        raise click.BadParameter(unknown("key", key, KEYS), param_hint="KEY")
    found = configuration()
    name = chosen_context() or found.current
    values = {**found.contexts.get(name, {}), key: value}
    if not value:
        del values[key]
    path = save(replace(found, contexts={**found.contexts, name: values}))
    click.echo(f"{path}: {name}: {key} {f'= {value}' if value else 'removed'}")


@command.command("use-context")
@click.argument("name")
def use_context(*, name: str) -> None:
    """Makes NAME the context that counts where --context is not given.

    \b
    Examples:
      bpfleet config use-context lab
    """
    found = configuration()
    _known(name, found.contexts)
    path = save(replace(found, current=name))
    click.echo(f"{path}: {name} is the current context")


@command.command("delete-context")
@click.argument("name")
def delete_context(*, name: str) -> None:
    """Removes a context from the file.

    \b
    Examples:
      bpfleet config delete-context lab
    """
    found = configuration()
    _known(name, found.contexts)
    if name == found.current and len(found.contexts) > 1:
        raise click.UsageError(f"{name!r} is the current context; switch to another one first")
    rest = {each: values for each, values in found.contexts.items() if each != name}
    path = save(replace(found, contexts=rest))
    click.echo(f"{path}: {name} removed")


def _known(name: str, contexts: Mapping[str, Mapping[str, str]]) -> None:
    if name not in contexts:
        raise click.BadParameter(unknown("context", name, contexts), param_hint="NAME")
