"""The version: of the tag it was built from, or of the commits since."""

try:
    from bpfleet._version import __version__
except ImportError:  # a checkout that was never installed
    __version__ = "0.1.0"

__all__ = ["__version__"]
