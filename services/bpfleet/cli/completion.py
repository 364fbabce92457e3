"""``bpfleet completion``: what a shell needs to complete commands, options and names."""

from collections.abc import Callable, Iterable
from typing import Final

import click
from click.shell_completion import get_completion_class

__all__ = ["command", "names"]

_SHELLS: Final = ("bash", "zsh", "fish")
_VARIABLE: Final = "_BPFLEET_COMPLETE"

# How click asks for what an option may be.
Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def names(known: Callable[[], Iterable[str]]) -> Completer:
    """Completes an option that takes names, several of them separated by commas."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known() if name.startswith(begun)]

    return complete


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, *, shell: str) -> None:
    """Prints the completion of SHELL: commands, options, kernels, map types, applications, incidents.

    \b
    Examples:
      bpfleet completion bash > ~/.local/share/bash-completion/completions/bpfleet
      bpfleet completion zsh > "${fpath[1]}/_bpfleet"
      bpfleet completion fish > ~/.config/fish/completions/bpfleet.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    complete = found(context.find_root().command, {}, "bpfleet", _VARIABLE)
    # Not source(): it would ask the bash at hand for its version.
    click.echo(complete.source_template % complete.source_vars())
