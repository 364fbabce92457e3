"""The image that the end-to-end tests share; skipped where no Docker Engine can build it."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from docker_runs import run

BUILD_SECONDS = 300


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The image of this checkout, built for these tests."""
    base = os.environ.get("PYTHON_IMAGE", "python:3.11-slim")
    redis = os.environ.get("REDIS_IMAGE", "redis:7")
    if shutil.which("docker") is None:
        pytest.skip("no docker command")
    for name in (base, redis):
        inspect = ["docker", "image", "inspect", name]
        if subprocess.run(inspect, capture_output=True, check=False).returncode:
            pytest.skip(f"no Docker Engine with the image {name} (PYTHON_IMAGE, REDIS_IMAGE)")
    name = f"bpfleet:test-{os.getpid()}"
    arguments = ("--build-arg", f"PYTHON_IMAGE={base}", "-f", "deploy/Dockerfile", "-t", name)
    run("docker", "build", "-q", *arguments, ".", seconds=BUILD_SECONDS)
    yield name
    subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)
