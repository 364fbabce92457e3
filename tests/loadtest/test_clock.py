"""gevent's clock, by which Locust counts -t."""

import subprocess
import sys

PROGRAM = """
import time
import gevent
from loadtest.hooks import _wind_clock
loop = gevent.get_hub().loop
loop.update_now()
before = loop.now()
end = time.perf_counter() + 0.2
while time.perf_counter() < end:
    pass  # as modules do while they load
assert loop.now() == before, "the clock stands still while nobody yields"
_wind_clock()
assert loop.now() - before >= 0.2
"""


def test_a_test_that_starts_does_not_count_the_time_that_modules_took_to_load():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
