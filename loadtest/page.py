"""The models side by side, live, inside Locust's web page: a tab, a page of its own, downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, request
from locust.env import Environment

from loadtest.run import LoadRun

__all__ = ["add_page"]

_PAGE: Final = Path(__file__).with_name("models.html")
_KEY: Final = "bpfleet-models"
_COLUMNS: Final = (
    ("model", "Model"),
    ("calls", "Calls"),
    ("OK", "OK"),
    ("EPERM", "EPERM"),
    ("ENOMEM", "ENOMEM"),
    ("E2BIG", "E2BIG"),
    ("other", "Other"),
    ("oom_kills", "OOM kills"),
    ("transport_failures", "Transport failures"),
    ("elements", "Elements"),
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
)
_NAMED: Final = ("OK", "EPERM", "ENOMEM", "E2BIG")


def add_page(environment: Environment, run: LoadRun) -> None:
    """Add the tab *Models*, ``/models`` and its data to the web page, where there is one."""
    web = environment.web_ui
    if web is None or web.app is None:
        return
    web.app.register_blueprint(_blueprint(run))
    web.app.after_request(lambda answer: _with_models(answer, run))
    structure = [{"key": key, "title": title} for key, title in _COLUMNS]
    web.template_args |= {
        "extended_tabs": [{"title": "Models", "key": _KEY}],
        "extended_tables": [{"key": _KEY, "structure": structure}],
        "extended_csv_files": [
            {"href": "/models", "title": "Models side by side, live"},
            {"href": "/models.csv", "title": "Outcomes by model, call, errno and reason (CSV)"},
            {"href": "/models.json", "title": "Outcomes (JSON)"},
        ],
    }


def _blueprint(run: LoadRun) -> Blueprint:
    blueprint = Blueprint("bpfleet", __name__)

    @blueprint.route("/models")
    def page() -> Response:
        return Response(_PAGE.read_text("utf-8"), mimetype="text/html")

    @blueprint.route("/models.json")
    def data() -> Response:
        body = {"models": run.summary(), "outcomes": list(run.outcomes.rows())}
        return Response(json.dumps(body), mimetype="application/json")

    @blueprint.route("/models.csv")
    def table() -> Response:
        return Response(run.outcomes.as_csv(), mimetype="text/csv")

    return blueprint


def _with_models(answer: Response, run: LoadRun) -> Response:
    """Locust's page asks for its statistics every two seconds; the tab's rows travel along."""
    if request.path == "/stats/requests" and answer.is_json:
        rows = [_row(summary) for summary in run.summary()]
        body = {**answer.get_json(), "extended_stats": [{"key": _KEY, "data": rows}]}
        answer.set_data(json.dumps(body))
    return answer


def _row(summary: dict[str, Any]) -> dict[str, Any]:
    errnos = summary["errnos"]
    other = sum(count for errno, count in errnos.items() if errno not in _NAMED)
    row = {key: summary[key] for key, _ in _COLUMNS if key in summary}
    row |= {errno: errnos.get(errno, 0) for errno in _NAMED} | {"other": other}
    return {key: round(v, 2) if isinstance(v, float) else v for key, v in row.items()}
