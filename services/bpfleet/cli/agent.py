"""``bpfleet agent``: the node agent, as ``python -m bpfleet.node_agent`` starts it."""

from bpfleet.node_agent.__main__ import main as command

__all__ = ["command"]
