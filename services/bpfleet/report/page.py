"""One self-contained HTML page: styles, script and data are inside it, nothing is fetched."""

import json
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from bpfleet.report.compare import Comparison
from bpfleet.report.pagedata import page_data

__all__ = ["to_html"]

# JSON values of any type.
Plain = Any

_ASSETS: Final = "assets"


def to_html(comparison: Comparison, *, extra: dict[str, Plain] | None = None) -> str:
    """The page of ``comparison``; ``extra`` adds sections that need runs of their own (limits,
    CPUs).
    """
    data = page_data(comparison)
    data.update(extra or {})
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_asset("page.html")).render(
        title=data["meta"]["title"],
        css=_asset("page.css"),
        js=_asset("page.js"),
        data=_script_json(data),
    )


def _asset(name: str) -> str:
    return files("bpfleet.report").joinpath(_ASSETS, name).read_text("utf-8")


def _script_json(data: Plain) -> str:
    """JSON that may stand inside a script element: no ``<`` survives, so no ``</script>`` either."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
