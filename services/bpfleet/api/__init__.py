"""bpfleet as a library (``library``, whose names ``import bpfleet`` offers), and what it shares with the commands."""
