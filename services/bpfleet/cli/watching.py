"""Views that print themselves anew until Ctrl-C."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click

__all__ = ["WATCH_SECONDS", "watchable"]

WATCH_SECONDS: Final = 2.0


def watchable(view: Callable[..., None]) -> Callable[..., None]:
    """Adds ``--watch`` to a command that prints what is: prints it anew every two seconds until Ctrl-C."""

    @click.option("--watch", is_flag=True, help="Print anew every two seconds, until Ctrl-C.")
    @wraps(view)
    # Any: the options of the command it wraps.
    def again(*, watch: bool, **options: Any) -> None:
        view(**options)
        while watch:
            time.sleep(WATCH_SECONDS)
            click.clear()
            view(**options)

    return again
