"""The incident museum: real incidents as files, with their source, set-up and what must be seen under each model.

A file has ``steps``, issued in order on a fresh kernel, and optionally ``cases``: the same steps on other node shapes,
with ``$name`` replaced by the case's value. A step does one thing (``do``) and yields observations; a key of the step
named like an observation holds what is expected of it, by model: a profile's name, or ``R`` (5.10), ``M`` (5.11 to 5.19
and the series as posted), ``N`` (6.0 and later), ``O`` (accounting switched off), ``memcg`` (M and N), ``all``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bpfleet.kernel.profile import (
    KernelProfile,
    Model,
    Use,
    kernel_of,
    profile_named,
    used_by,
)
from bpfleet.oracle.incidents.steps import STEPS, Play, StepError
from bpfleet.plain import toml_table
from bpfleet.runtime.profiles import profile_from
from bpfleet.verbs.stage import UnknownNameError
from bpfleet.workload.quantity import parse_bytes

Plain = Any  # a value TOML can hold

DEFAULT_MODELS: Final = used_by(Use.INCIDENT)
NEAR: Final = 0.02
_STEP_WORDS: Final = frozenset({"do", "note", "only", "options"})
_REQUIRED: Final = ("id", "title", "source", "story", "steps")


class IncidentError(ValueError):
    """A file that is not a usable incident: names file, place and what to do."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of the museum. ``correction`` says where the public account, or our own guide, was wrong."""

    name: str
    id: str
    title: str
    source: str
    story: str
    correction: str
    models: tuple[str, ...]
    node: Mapping[str, Plain]
    cases: tuple[Mapping[str, Plain], ...]
    steps: tuple[Mapping[str, Plain], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One expectation beside what was observed. ``place`` is the step's number and what it does."""

    profile: KernelProfile
    case: str
    place: str
    observation: str
    expected: Plain
    observed: Plain

    @property
    def model(self) -> str:
        """The name of the kernel."""
        return self.profile.name

    @property
    def agrees(self) -> bool:
        """Whether the observation is what was expected."""
        return matches(self.expected, self.observed)


# -- files -----------------------------------------------------------------------------------------------------------


def read_incidents(directory: Path) -> list[Incident]:
    """Every incident of a directory, by id. Raises IncidentError, OSError."""
    found = [read_incident(path) for path in sorted(directory.glob("*.toml"))]
    if not found:
        raise IncidentError(f"{directory}: no incident files (*.toml) here")
    return sorted(found, key=lambda incident: incident.id)


def read_incident(path: Path) -> Incident:
    """The incident in one file. Raises IncidentError, OSError."""
    try:
        data = toml_table(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise IncidentError(f"{path}: not TOML: {error}") from None
    except ValueError as error:
        raise IncidentError(f"{path}: {error}") from None
    for name in _REQUIRED:
        if not data.get(name):
            raise IncidentError(
                f"{path}: {name} is missing; an incident needs {', '.join(_REQUIRED)}"
            )
    for number, step in enumerate(data["steps"], 1):
        if step.get("do") not in STEPS:
            known = ", ".join(sorted(STEPS))
            raise IncidentError(
                f"{path}: step {number}: do = {step.get('do')!r} is unknown; there are {known}"
            )
    models = tuple(data.get("models", DEFAULT_MODELS))
    for model in models:
        try:
            profile_named(model)
        except ValueError as error:
            raise IncidentError(f"{path}: models: {error}") from None
    return Incident(
        path.stem,
        data["id"],
        data["title"],
        data["source"],
        data["story"].strip(),
        data.get("correction", "").strip(),
        models,
        data.get("node", {}),
        tuple(data.get("cases", ({},))),
        tuple(data["steps"]),
    )


# -- running ---------------------------------------------------------------------------------------------------------


def run_incident(incident: Incident, models: Iterable[str] = ()) -> Iterator[Finding]:
    """Issues an incident's steps under each model and case; yields every expectation with its observation.

    ``models`` restricts the incident's own; a profile file stands for the kernel its behaviour is of. Raises
    IncidentError for a step that cannot be issued, ``ValueError`` for an unknown model.
    """
    wanted = [profile_from(model) for model in models]
    for model in incident.models:
        profiles = [profile for profile in wanted if kernel_of(profile.name).name == model]
        for profile in profiles if wanted else [profile_named(model)]:
            for case in incident.cases:
                yield from _run_case(incident, profile, case)


def _run_case(
    incident: Incident, profile: KernelProfile, case: Mapping[str, Plain]
) -> Iterator[Finding]:
    play = Play(profile, {**incident.node, **case})
    for number, step in enumerate(incident.steps, 1):
        resolved = _resolve(step, case)
        if not _applies(resolved, profile):
            continue
        place = f"{number} {_describe(resolved)}"
        try:
            observed = STEPS[resolved["do"]](play, resolved)
        except (StepError, UnknownNameError, KeyError) as error:
            raise IncidentError(
                f"{incident.name}, {profile.name}, step {place}: {error.args[0]}"
            ) from error
        play.kernel.check()
        for name, value in observed.items():
            expected = _expectation(resolved.get(name), profile)
            if expected is not None:
                yield Finding(profile, str(case.get("case", "")), place, name, expected, value)
        for name in resolved:
            if (
                isinstance(resolved[name], dict)
                and name not in observed
                and name not in _STEP_WORDS
            ):
                raise IncidentError(
                    f"{incident.name}, step {place}: nothing is observed as {name!r};"
                    f" there are {', '.join(observed) or 'no observations'}"
                )


def _describe(step: Mapping[str, Plain]) -> str:
    words = [str(step["do"])]
    words += [
        str(step[name])
        for name in ("process", "application", "map", "cgroup", "what")
        if name in step
    ]
    return step.get("note") or " ".join(words)


def _applies(step: Mapping[str, Plain], profile: KernelProfile) -> bool:
    only = step.get("only")
    return only is None or any(name in _names_of(profile) for name in only)


def _resolve(value: Plain, case: Mapping[str, Plain]) -> Plain:
    """A step with every "$name" replaced by the case's value."""
    if isinstance(value, str) and value.startswith("$"):
        return case[value[1:]]
    if isinstance(value, list):
        return [_resolve(item, case) for item in value]
    if isinstance(value, dict):
        return {name: _resolve(item, case) for name, item in value.items()}
    return value


def _names_of(profile: KernelProfile) -> tuple[str, ...]:
    """What a model may be called in a file, most particular first."""
    kernel = kernel_of(profile.name).name
    if profile.is_rlimit:
        return (kernel, "R", "all")
    if profile.model is Model.NONE:
        return (kernel, "O", "all")
    return (kernel, "N" if profile.map_holds_objcg else "M", "memcg", "all")


def _expectation(expected: Plain, profile: KernelProfile) -> Plain:
    """What a step expects under a model; a bare value is expected under all."""
    if not isinstance(expected, dict):
        return expected
    for name in _names_of(profile):
        if name in expected:
            return expected[name]
    return None


def matches(expected: Plain, observed: Plain) -> bool:
    """Whether an observation is as expected: equal, within "low..high", ">=", "<=" or "~" (2 %) of a size.

    >>> matches("ENOMEM", "ENOMEM"), matches("60M..70M", 64 << 20), matches("~64M", 65 << 20), matches(">=1G", 5)
    (True, True, True, False)
    """
    if isinstance(expected, list):
        return any(matches(item, observed) for item in expected)
    if isinstance(expected, str) and isinstance(observed, int) and not isinstance(observed, bool):
        return _number_matches(expected, observed)
    return bool(expected == observed)


def _number_matches(expected: str, observed: int) -> bool:
    low, dots, high = expected.partition("..")
    if dots:
        return parse_bytes(low) <= observed <= parse_bytes(high)
    if expected.startswith(">="):
        return observed >= parse_bytes(expected[2:])
    if expected.startswith("<="):
        return observed <= parse_bytes(expected[2:])
    if expected.startswith("~"):
        middle = parse_bytes(expected[1:])
        return abs(observed - middle) <= middle * NEAR
    return observed == parse_bytes(expected)
