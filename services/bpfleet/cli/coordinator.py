"""``bpfleet coordinator``: the coordinator, as ``python -m bpfleet.coordinator`` starts it."""

from bpfleet.coordinator.__main__ import main as command

__all__ = ["command"]
