"""bpfleet: what a BPF memory-accounting model does to a fleet of Linux hosts."""

__version__ = "0.1.0"
