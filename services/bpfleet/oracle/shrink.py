"""The smallest story that still differs: cuts are tried until none of them does any more."""

from collections.abc import Callable
from typing import Any, Final

from bpfleet.oracle.record.stories import Step, smaller_stories

TRIES: Final = 400  # each is played on the real kernel


def smallest(steps: list[Step], differs: Callable[[list[Step]], bool]) -> list[Step]:
    """The steps that are left when no cut keeps the difference. ``differs`` plays a story and compares it.

    At most ``TRIES`` stories are played: what is smallest by then is given back.
    """
    best, tried = steps, 0
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller in smaller_stories(best):
            if not makes_sense(smaller):
                continue
            tried += 1
            if tried > TRIES:
                return best
            if differs(smaller):
                best, shrinking = smaller, True
                break
    return best


def makes_sense(steps: list[Any]) -> bool:
    """Whether every step speaks of cgroups and actors that were told before."""
    cgroups, actors = {"/"}, set()
    for step in steps:
        if step["op"] == "cgroup":
            cgroups.add(step["path"])
        elif step.get("cg", "/") not in cgroups:
            return False
        if step["op"] == "actor":
            actors.add(step["a"])
        elif "a" in step and step["a"] not in actors:
            return False
    return True
