"""What the launcher says where there is no engine."""

import gc
from pathlib import Path

import pytest

from bpfleet.launcher.docker import DockerEngine
from bpfleet.launcher.errors import LaunchError


def test_a_socket_nobody_listens_on_is_one_clear_line_and_is_not_kept_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(
        LaunchError, match=r"no Docker Engine answers.*No such file.*set DOCKER_HOST"
    ):
        DockerEngine()
    gc.collect()  # a socket left open would be a warning now, and so a failure
