"""Words nearest to a mistyped one."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["advice", "nearest", "unknown"]

_NAMED_MAX: Final = 12


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is meant by ``word``, if one is near.

    >>> nearest("comapre", ["compare", "capture"])
    'compare'
    """
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, 1)
    return by_lower[found[0]] if found else None


def unknown(what: str, word: str, known: Iterable[str], *, more: str = "") -> str:
    """One line about a word that is not known: which one is meant, or which there are.

    ``more`` says how to see them, where they are many.

    >>> unknown("map type", "hasch", ["array", "hash"])
    "unknown map type 'hasch'; did you mean 'hash'?"
    >>> unknown("map type", "tree", ["array", "hash"])
    "unknown map type 'tree'; known: array, hash"
    """
    names = list(known)
    near = nearest(word, names)
    if near is not None:
        return f"unknown {what} {word!r}; did you mean {near!r}?"
    listed = more if more and len(names) > _NAMED_MAX else f"known: {_few(names)}"
    return f"unknown {what} {word!r}; {listed}"


def advice(word: object, known: Iterable[str]) -> str:
    """What to write instead of ``word``, as the remedy of an error.

    >>> advice("falko", ["cilium", "falco"]), advice("x", ["cilium", "falco"])
    ("did you mean 'falco'?", 'use one of cilium, falco')
    """
    names = list(known)
    near = nearest(str(word), names)
    return f"did you mean {near!r}?" if near is not None else f"use one of {_few(names)}"


def _few(names: Sequence[str]) -> str:
    text = ", ".join(names[:_NAMED_MAX])
    more = len(names) - _NAMED_MAX
    return f"{text} and {more} more" if more > 0 else text or "none"
