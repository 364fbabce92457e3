"""bpfleet: what a BPF memory-accounting model does to a fleet of Linux hosts.

The library is documented in ``bpfleet.api.library``; its names are imported from here, when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bpfleet.api.library import (
        Capture,
        ComparisonResult,
        HostsResult,
        Kernel,
        Table,
        capture,
        compare,
        compare_captures,
        explain,
        kernel_profile,
        limit,
        size,
    )
    from bpfleet.client.session import Session

from bpfleet.version import __version__

__all__ = [
    "Capture",
    "ComparisonResult",
    "HostsResult",
    "Kernel",
    "Session",
    "Table",
    "__version__",
    "capture",
    "compare",
    "compare_captures",
    "explain",
    "kernel_profile",
    "limit",
    "size",
]


# Any: functions and classes.
def __getattr__(name: str) -> Any:
    """A name of the library. Imported late: most of bpfleet needs only a part of what they need."""
    if name == "Session":
        from bpfleet.client.session import Session

        return Session
    if name in __all__:
        from bpfleet.api import library

        return getattr(library, name)
    raise AttributeError(f"module 'bpfleet' has no attribute {name!r}")
