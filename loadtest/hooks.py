"""What bpfleet adds to Locust: options, the run, the page, exports and the exit code."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import gevent
from locust import User, runners
from locust.env import Environment
from locust.event import Events
from locust.runners import WorkerRunner

from loadtest.grpc_user import LoadUser
from loadtest.locust_shapes import offered_shapes
from loadtest.options import OptionError, add_arguments, early_shape
from loadtest.page import add_page
from loadtest.run import FLEET, LoadRun, run_of

__all__ = ["early_settings", "register"]

EXIT_BAD_OPTION: Final = 2
# Locust gives a worker up after three seconds without a word and ends the test with the last one; on
# a machine that also carries the fleet, a worker may well get no CPU for longer.
_HEARTBEATS_MISSED_MAX: Final = 30
_log = logging.getLogger("bpfleet.load")


def early_settings(arguments: Sequence[str]) -> str:
    """The shape, read before Locust parses. Ends the program with one line for an unknown one."""
    try:
        return early_shape(arguments)
    except OptionError as error:
        _end_with(error)
        raise


def register(events: Events) -> None:
    """Listen to what Locust tells."""
    runners.HEARTBEAT_LIVENESS = _HEARTBEATS_MISSED_MAX
    events.init_command_line_parser.add_listener(_add_options)
    events.init.add_listener(_attach)
    events.test_start.add_listener(_begin)
    events.test_stop.add_listener(_end)
    events.quitting.add_listener(_conclude)


def _add_options(parser: Any, **rest: Any) -> None:
    add_arguments(parser)


def _attach(environment: Environment, **rest: Any) -> None:
    _wind_clock()
    run = LoadRun(environment)
    environment.bpfleet_run = run  # type: ignore[attr-defined]
    try:
        run.check_options()
        # Workers run what the master tells them to.
        if not isinstance(environment.runner, WorkerRunner):
            _choose_users(environment, run.options.weights)
            _offer_choices(environment)
    except OptionError as error:
        _end_with(error)
    add_page(environment, run)


def _choose_users(environment: Environment, weights: Mapping[str, int]) -> None:
    """Apply --weights, and leave out the kinds whose tasks --tags and --exclude-tags rule out."""
    kinds = {user.kind: user for user in environment.user_classes if issubclass(user, LoadUser)}
    for kind, weight in weights.items():
        if kind not in kinds:
            raise OptionError(f"--weights {kind}={weight}: use {', '.join(sorted(kinds))}")
        kinds[kind].weight = weight
    chosen = [u for u in kinds.values() if u.weight and _has_task(u, environment)]
    if not chosen:
        raise OptionError("--weights, --tags and --exclude-tags leave no user to run")
    environment.user_classes = list(chosen)


def _offer_choices(environment: Environment) -> None:
    """Kinds of users and shapes are fields of the page's form, unless the command line has chosen a shape."""
    web = environment.web_ui
    if web is None or environment.shape_class is not None:
        return
    # Any: Locust's own annotation says instances, and it keeps classes.
    users: Any = {user.__name__: user for user in environment.user_classes}
    environment.available_user_classes = users
    environment.available_user_tasks = {name: user.tasks for name, user in users.items()}
    environment.available_shape_classes = offered_shapes()
    web.userclass_picker_is_active = True


def _has_task(user: type[User], environment: Environment) -> bool:
    options: Any = environment.parsed_options  # Locust's namespace, filled by its parser
    wanted, unwanted = set(options.tags or ()), set(options.exclude_tags or ())
    tags = [set(getattr(task, "locust_tag_set", ())) for task in user.tasks]
    return any((not wanted or wanted & each) and not unwanted & each for each in tags)


def _wind_clock() -> None:
    """gevent's clock stands still while modules load, and a time limit (-t) set then would count the loading."""
    gevent.get_hub().loop.update_now()


def _begin(environment: Environment, **rest: Any) -> None:
    _wind_clock()
    run_of(environment).begin()


def _end(environment: Environment, **rest: Any) -> None:
    run_of(environment).end()


def _conclude(environment: Environment, **rest: Any) -> None:
    """Writes the outcomes and sets the exit code: 1 where a threshold was passed."""
    if isinstance(environment.runner, WorkerRunner):
        return
    run = run_of(environment)
    path = run.options.outcomes_file
    written = not path or _write(Path(path), run)
    for line in _summary_lines(run):
        print(line)
    passed = run.passed_thresholds()
    for line in passed:
        print(f"bpfleet: {line}", file=sys.stderr)
    broken = bool(environment.runner and environment.runner.exceptions)
    environment.process_exit_code = 1 if passed or broken or not written else 0


def _write(path: Path, run: LoadRun) -> bool:
    if path.suffix == ".csv":
        text = run.outcomes.as_csv()
    else:
        text = json.dumps(run.as_data(), indent=2) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"bpfleet: cannot write {path}: {error.strerror}", file=sys.stderr)
        return False
    return True


def _summary_lines(run: LoadRun) -> list[str]:
    rows = run.summary()
    if not rows:
        return ["", "no outcomes"]
    errnos = sorted({errno for row in rows for errno in row["errnos"]} - {"OK"})
    head = ["model", "calls", "OK", *errnos, "OOM kills", "transport", "p50 ms", "p99 ms"]
    table = [head]
    for row in rows:
        counts = [str(row["errnos"].get(errno, 0)) for errno in ("OK", *errnos)]
        times = ["-" if row[t] is None else str(row[t]) for t in ("p50_ms", "p99_ms")]
        table.append(
            [
                row["model"],
                str(row["calls"]),
                *counts,
                str(row["oom_kills"]),
                str(row["transport_failures"]),
                *times,
            ]
        )
    widths = [max(len(line[at]) for line in table) for at in range(len(head))]
    lines = [
        "  ".join(
            c.ljust(w) if at == 0 else c.rjust(w)
            for at, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
    return ["", *lines, *_steps_lines(run)]


def _steps_lines(run: LoadRun) -> list[str]:
    """At how many users step-to-failure broke each model, or that it did not; nothing under other shapes."""
    if run.stepped_to is None:
        return []
    models = [model for model in run.outcomes.models if model != FLEET]
    return [
        f"{model} broke at {run.broke_at[model]} users"
        if model in run.broke_at
        else f"{model} did not break up to {run.stepped_to} users"
        for model in models
    ]


def _end_with(error: OptionError) -> None:
    print(f"bpfleet: {error}", file=sys.stderr)
    sys.exit(EXIT_BAD_OPTION)
