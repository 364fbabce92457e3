"""Settings of a load test: what is understood, and what is said about what is not."""

import argparse

import pytest

from bpfleet.abi.limits import RLIM_INFINITY
from loadtest.options import (
    LoadOptions,
    OptionError,
    add_arguments,
    early_shape,
    memlock_of,
    memory_max_of,
)
from loadtest.scripts import FleetDo, FleetStep, selector_of


class _LocustParser:
    """Locust's parser takes two keywords more than argparse."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser()

    def add_argument(self, *names, env_var, include_in_web_ui, **rest) -> None:
        self.parser.add_argument(*names, **rest)


def _parsed(*arguments: str) -> LoadOptions:
    locust = _LocustParser()
    add_arguments(locust)
    return LoadOptions.parsed(locust.parser.parse_args(arguments))


def test_the_defaults_are_valid_and_fail_on_any_transport_failure() -> None:
    options = _parsed()
    assert options.transport_failures_max == 0
    assert options.models == ()
    assert options.limit_bytes == 64 << 20


def test_lists_sizes_and_thresholds_are_read() -> None:
    options = _parsed(
        *("--kernel", "5.10, 6.12:nobpf", "--memory-max", "1G", "--memlock", "max"),
        *("--fail-if", "6.12:nobpf:ENOMEM>0.05,5.10:EPERM>1"),
    )
    assert options.models == ("5.10", "6.12:nobpf")
    assert options.limit_bytes == 1 << 30
    assert options.memlock_bytes == RLIM_INFINITY
    assert options.fail_if == (("6.12:nobpf", "ENOMEM", 0.05), ("5.10", "EPERM", 1.0))


@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64K", 65536), ("2m", 2 << 20), ("max", None)]
)
def test_memory_max_is_bytes_or_none(text, size) -> None:
    assert memory_max_of(text) == size


@pytest.mark.parametrize(
    ("text", "limit"),
    [("default", None), ("unlimited", RLIM_INFINITY), ("max", RLIM_INFINITY), ("64K", 65536)],
)
def test_memlock_means_what_it_means_in_a_workload(text, limit) -> None:
    assert memlock_of(text) == limit


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--memory-max", "lots"), "--memory-max 'lots': use a number of bytes"),
        (("--memory-max", "-1M"), "--memory-max '-1M'"),
        (("--memory-max", "default"), "--memory-max 'default': use a number of bytes"),
        (
            ("--memlock", "-1"),
            "--memlock '-1': use a number of bytes such as 65536, 64M, default or",
        ),
        (("--batch", "0"), "--batch 0: use 1 to 4096"),
        (("--shape-steps", "0"), "--shape-steps 0: use 1 to 1000"),
        (("--fail-if", "6.12:EBANANA>0.5"), "--fail-if '6.12:EBANANA>0.5': use MODEL:ERRNO"),
        (("--elements", "9000"), "--elements 9000: use 1 to 8192"),
        (("--applications", "emacs"), "--applications 'emacs': use some of"),
        (("--weights", "tenant"), "--weights 'tenant': use KIND=WEIGHT"),
        (("--fail-if", "6.12>0.5"), "--fail-if '6.12>0.5': use MODEL:ERRNO>SHARE"),
        (("--fail-if", "6.12:ENOMEM>2"), "--fail-if '6.12:ENOMEM>2'"),
        (("--fail-if", "6.12:ENOMEM"), "--fail-if '6.12:ENOMEM'"),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(arguments, says) -> None:
    with pytest.raises(OptionError) as caught:
        _parsed(*(f"{name}={value}" for name, value in [arguments]))
    assert str(caught.value).startswith(says)


def test_the_shape_is_known_before_locust_parses(monkeypatch) -> None:
    assert early_shape(["-u", "20", "--load-shape", "burst", "--headless"]) == "burst"
    assert early_shape(["-u", "20"]) == ""
    monkeypatch.setenv("BPFLEET_SHAPE", "soak")
    assert early_shape([]) == "soak"
    with pytest.raises(OptionError, match="use one of burst, ramp"):
        early_shape(["--load-shape", "zigzag"])


def test_workloads_are_bound_to_the_models_named_in_turn() -> None:
    assert _parsed().pin == ()
    pin = _parsed("--pin", "5.10,6.12").pin
    steps = [FleetStep(FleetDo.SUBMIT, number, 1, "falco") for number in range(3)]
    chosen = [selector_of(step, pin)["bpfleet/profile"] for step in steps]
    assert chosen == ["5.10", "6.12", "5.10"]
    assert not selector_of(steps[0], ())
