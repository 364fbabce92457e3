"""The shapes of ``shapes.py`` as Locust takes them; -u, -r and -t scale them."""

from __future__ import annotations

import sys
from typing import Any

from locust import LoadTestShape
from locust.util.timespan import parse_timespan

from loadtest.options import STEP_TO_FAILURE, early_shape
from loadtest.run import FLEET, run_of
from loadtest.shapes import SHAPES, ShapeSettings, StepToFailure, Target, users_at

__all__ = ["NamedShape", "StepToFailureShape", "offered_shapes"]

_DEFAULTS = ShapeSettings()


class _Shape(LoadTestShape):
    abstract = True
    use_common_options = True

    @property
    def environment(self) -> Any:
        assert self.runner is not None, "Locust sets the runner before it asks"
        return self.runner.environment

    def elapsed(self) -> float:
        """Seconds since the test began."""
        return float(LoadTestShape.get_run_time(self))

    def settings(self) -> ShapeSettings:
        """From -u, -r and -t as they are now."""
        options = self.environment.parsed_options
        return ShapeSettings(
            users=options.num_users or _DEFAULTS.users,
            spawn_rate=options.spawn_rate or _DEFAULTS.spawn_rate,
            seconds=float(_seconds(options.run_time)),
        )


class NamedShape(_Shape):
    """One of the shapes that depend on time alone: the one named, or that of --load-shape."""

    def __init__(self, name: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Locust has no types here
        self._name = name or early_shape(sys.argv[1:])

    def tick(self) -> Target:
        """Users wanted now."""
        return users_at(self._name, self.settings(), self.elapsed())


class StepToFailureShape(_Shape):
    """More users step by step until every model broke; says at how many each did."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Locust has no types here
        self._steps: StepToFailure | None = None

    def reset_time(self) -> None:
        """A new test starts."""
        LoadTestShape.reset_time(self)
        self._steps = None

    def tick(self) -> Target:
        """Users wanted now, judged by the outcomes of all processes."""
        run = run_of(self.environment)
        if self._steps is None:
            options = run.options
            self._steps = StepToFailure(
                self.settings(), steps=options.shape_steps, threshold=options.shape_bad_share
            )
        table = run.outcomes
        seen = {m: (table.bad_count(m), table.call_count(m)) for m in table.models if m != FLEET}
        run.stepped_to = self._steps.users
        target = self._steps.target(self.elapsed(), seen)
        run.broke_at = dict(self._steps.broke_at)
        return target


def offered_shapes() -> dict[str, LoadTestShape]:
    """Every shape by name, to be chosen from."""
    named: dict[str, LoadTestShape] = {name: NamedShape(name) for name in SHAPES}
    return {**named, STEP_TO_FAILURE: StepToFailureShape()}


def _seconds(run_time: Any) -> float:
    if run_time is None:
        return _DEFAULTS.seconds
    return float(parse_timespan(run_time) if isinstance(run_time, str) else run_time)
