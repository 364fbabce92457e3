"""Texts of users as plain values: TOML and JSON, with one sentence for whatever is wrong with them."""

import json
import tomllib
from typing import Any, Final

__all__ = ["json_value", "toml_table"]

# The reader takes time with the square of the parts of a dotted key, and a key stands on one line.
_DOTS_PER_LINE_MAX: Final = 64
_LONG: Final = "it has a number of thousands of digits"
_DEEP: Final = "it is nested too deeply"


def toml_table(text: str) -> dict[str, Any]:
    """The table in a TOML text. Raises ``ValueError``: ``not TOML (...)``.

    >>> toml_table("limits = { web = 512 }")
    {'limits': {'web': 512}}
    """
    dotted = (line for line in text.splitlines() if line.count(".") > _DOTS_PER_LINE_MAX)
    if line := next(dotted, ""):
        raise ValueError(
            f"not TOML that we read ({line[:40]!r} nests deeper than any field of ours)"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML ({error})") from None
    except ValueError:
        raise ValueError(f"not TOML that we read ({_LONG})") from None
    except RecursionError:
        raise ValueError(f"not TOML that we read ({_DEEP})") from None


def json_value(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ``ValueError``: ``not JSON (...)``."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"not JSON ({error.msg}, {where})") from None
    except UnicodeDecodeError:
        raise ValueError("not JSON (not UTF-8)") from None
    except ValueError:
        raise ValueError(f"not JSON that we read ({_LONG})") from None
    except RecursionError:
        raise ValueError(f"not JSON that we read ({_DEEP})") from None
