"""Shapes of the load over time: how many users at which second.

Pure functions of the elapsed time; ``locustfile.py`` puts one of them behind Locust's ``LoadTestShape``.
Step-to-failure also looks at the outcomes, see ``StepToFailure``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["SHAPES", "BadShare", "ShapeSettings", "StepToFailure", "Target", "users_at"]

Target = tuple[int, float] | None
"""Users wanted and users a second to get there; None ends the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeSettings:
    """What every shape is scaled by: the most users, how fast they come, the length of the test."""

    users: int = 20
    spawn_rate: float = 10.0
    seconds: float = 60.0


def steady(settings: ShapeSettings, elapsed: float) -> int:
    """All users from the first second on."""
    return settings.users


def soak(settings: ShapeSettings, elapsed: float) -> int:
    """All users, reached over the first twentieth of the time so that no start-up peak is measured."""
    return _share_of(settings, elapsed / (0.05 * settings.seconds))


def ramp(settings: ShapeSettings, elapsed: float) -> int:
    """From one user to all of them over the whole time, in a straight line."""
    return _share_of(settings, elapsed / settings.seconds)


def burst(settings: ShapeSettings, elapsed: float) -> int:
    """A fifth of the users, and all of them for the last quarter of each tenth of the time."""
    place = math.fmod(elapsed, settings.seconds / 10) / (settings.seconds / 10)
    return settings.users if place >= 0.75 else _share_of(settings, 0.2)


def _share_of(settings: ShapeSettings, share: float) -> int:
    return max(1, min(settings.users, math.ceil(settings.users * share)))


SHAPES: Final[Mapping[str, Callable[[ShapeSettings, float], int]]] = {
    "steady": steady,
    "ramp": ramp,
    "burst": burst,
    "soak": soak,
}


def users_at(shape: str, settings: ShapeSettings, elapsed: float) -> Target:
    """What the named shape wants ``elapsed`` seconds after the start. KeyError: no such shape."""
    if elapsed >= settings.seconds:
        return None
    return SHAPES[shape](settings, elapsed), settings.spawn_rate


BadShare = Mapping[str, tuple[int, int]]
"""Per model: bad verdicts and calls since the test began."""


@dataclass(slots=True)
class StepToFailure:
    """Adds a step of users whenever a step's time is over, until every model broke or all users are there.

    A model breaks in the first step in which at least ``threshold`` of its calls turned bad; ``broke_at`` keeps how
    many users there were.
    """

    settings: ShapeSettings
    steps: int = 10
    threshold: float = 0.05
    broke_at: dict[str, int] = field(default_factory=dict)
    _step: int = 0
    _before: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def users(self) -> int:
        """Users of the step in progress."""
        return max(1, self.settings.users * (self._step + 1) // self.steps)

    def target(self, elapsed: float, seen: BadShare) -> Target:
        """Users wanted now; judges the step that just ended by what was seen since it began."""
        while self._step < self.steps and elapsed >= self._step_end():
            self._judge(seen)
            self._step += 1
        if self._step == self.steps or (seen and set(self.broke_at) == set(seen)):
            return None
        return self.users, self.settings.spawn_rate

    def _step_end(self) -> float:
        return self.settings.seconds * (self._step + 1) / self.steps

    def _judge(self, seen: BadShare) -> None:
        for model, (bad, calls) in seen.items():
            bad_before, calls_before = self._before.get(model, (0, 0))
            if calls > calls_before and bad - bad_before >= self.threshold * (calls - calls_before):
                self.broke_at.setdefault(model, self.users)
        self._before = dict(seen)
