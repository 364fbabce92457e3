"""Fixtures shared by all tests: Hypothesis profiles and one kernel per profile."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Same examples in every run, so that the gate never fails by chance; BPFLEET_HYPOTHESIS=long explores.
settings.register_profile(
    "gate",
    deadline=None,
    derandomize=True,
    max_examples=40,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "long",
    deadline=None,
    max_examples=2000,
    stateful_step_count=100,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("BPFLEET_HYPOTHESIS", "gate"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite` replaces the answers in tests/scenarios/*.txt by those of the emulator."""
    parser.addoption("--rewrite", action="store_true", help="rewrite transcripts")
