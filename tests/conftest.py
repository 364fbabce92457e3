"""What all tests share: Hypothesis profiles, what is said at the start and of failures, and no process left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


# Tables have the width they need, whatever the terminal of who runs the tests.
os.environ.pop("COLUMNS", None)


# Whoever is started in the background of a shell ignores Ctrl-C, and so would all programs that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite` replaces the answers in tests/scenarios/*.txt by those of the emulator."""
    parser.addoption("--rewrite", action="store_true", help="rewrite transcripts")


# -- what is said ------------------------------------------------------------------------------------------------------


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which tests will be skipped on this machine, and why."""
    lacking = [f"will be skipped: {what}" for what, there in _parts() if not there]
    return lacking or ["nothing is lacking here: no test will be skipped for want of a program"]


def _parts() -> Iterator[tuple[str, bool]]:
    """What tests need that a machine may lack, in the words of their own reasons."""
    yield "tests with Redis (no redis-server)", shutil.which("redis-server") is not None
    yield "tests in a browser (no chromium)", shutil.which("chromium") is not None
    yield "axe-core on the pages (no npm)", shutil.which("npm") is not None
    yield "tests with Docker (no Docker Engine answers)", _answers("docker", "info")
    yield "tests of compose files (no docker compose)", _answers("docker", "compose", "version")
    yield "plays of alert rules (no promtool)", shutil.which("promtool") is not None
    renders = shutil.which("kustomize") or shutil.which("kubectl")
    yield "rendered manifests (neither kustomize nor kubectl)", renders is not None
    yield "tests of this machine's kernel (not root)", os.geteuid() == 0


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        return done.returncode == 0
    return False


class _Failures:
    """Prints each failure when it comes: who waits for the end of a long run to read it waits for nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_sep("_", f"{report.when} of {report.nodeid} failed", red=True)
            reporter.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    """Failures are told by the process that reports, not by xdist's workers."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Failures(config))


# -- nothing is left behind --------------------------------------------------------------------------------------------


def _children() -> set[int]:
    """The processes that this one has started, in whichever of its threads, and theirs."""
    found: set[int] = set()
    ahead = [os.getpid()]
    while ahead:
        pid = ahead.pop()
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                own = [int(word) for word in listed.read_text().split()]
                ahead += [each for each in own if each not in found]
                found.update(own)
    return found


def _is_pythons_own(pid: int) -> bool:
    """Whether it is the helper that multiprocessing keeps for the life of a process."""
    with contextlib.suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return True


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Ends what a test has started and not ended, also when it failed half way."""
    before = _children()
    yield
    for pid in _children() - before:
        if not _is_pythons_own(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
