"""Files that come with bpfleet beside its code: in a wheel they are in the package, in a checkout where they belong."""

from pathlib import Path
from typing import Final

__all__ = ["CHAOS_PLANS", "INCIDENTS", "LOAD_TEST", "RECORDINGS", "shipped"]

_PACKAGE: Final = Path(__file__).parent
_CHECKOUT: Final = Path(__file__).parents[2]
# In the package, as pyproject.toml puts them there, and in the checkout.
LOAD_TEST: Final = "load_files/loadtest", "loadtest"
INCIDENTS: Final = "load_files/loadtest/scenarios/incidents", "loadtest/scenarios/incidents"
RECORDINGS: Final = "oracle/recorded_files", "tests/oracle/recorded"
CHAOS_PLANS: Final = "launcher/chaos/plans", "deploy/chaos"


def shipped(files: tuple[str, str]) -> Path:
    """The folder of one of the kinds above. Raises ``FileNotFoundError`` where neither place has it."""
    packed, checked_out = _PACKAGE / files[0], _CHECKOUT / files[1]
    for folder in (packed, checked_out):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(2, "does not come with this installation", str(packed))
