"""``bpfleet sim``: simulated fleets under many seeds."""

from bpfleet.sim.__main__ import main

__all__ = ["command"]

command = main
