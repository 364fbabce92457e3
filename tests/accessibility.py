"""axe-core, the accessibility checker, from npm: fetched once a run, and only where npm can be asked."""

import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from browser import Browser

_PACKAGE = "axe-core@4.10.3"
_SECONDS = 60
# What WCAG 2.2 asks for on level AA.
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@cache
def axe() -> str:
    """The checker's source. Skips the test where it cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to fetch axe-core with")
    with TemporaryDirectory() as folder:
        try:
            command = [npm, "pack", "--silent", _PACKAGE]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not fetch {_PACKAGE} within {_SECONDS} s")
        if done.returncode:
            pytest.skip(f"npm cannot fetch {_PACKAGE}: {done.stderr.strip()[:200]}")
        with tarfile.open(Path(folder) / done.stdout.split()[-1]) as packed:
            member = packed.extractfile("package/axe.min.js")
            assert member is not None, "axe-core holds axe.min.js"
            return member.read().decode()


async def complaints(page: Browser) -> list[str]:
    """What axe-core has against the page as it is now: rule, what is wrong, and where."""
    if not await page.value("typeof axe !== 'undefined'"):
        await page.value(axe() + "; true")
    told: dict[str, Any] = json.loads(await page.promise(
        f"axe.run(document, {{runOnly: {json.dumps(_TAGS)}}}).then(found => JSON.stringify(found))"
    ))  # fmt: skip
    return [
        f"{found['id']}: {found['help']}: {node['target']} {node['html'][:160]}"
        for found in told["violations"]
        for node in found["nodes"][:5]
    ]
