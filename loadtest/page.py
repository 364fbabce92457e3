"""The models side by side, live, in Locust's page: a tab, a page of its own, downloads, and the fields of the form."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import gevent
from flask import Blueprint, Response, jsonify, request
from locust.env import Environment

from loadtest.options import LoadOptions, OptionError
from loadtest.outcomes import USUAL_ERRNOS
from loadtest.run import LoadRun

__all__ = ["add_page"]

_PAGE: Final = Path(__file__).with_name("models.html")
_LINK: Final = Path(__file__).with_name("models_link.html")
_KEY: Final = "bpfleet-models"
_HISTORY_SECONDS: Final = 2.0
_COLUMNS: Final = (
    ("model", "Model"),
    ("calls", "Calls"),
    ("OK", "OK"),
    ("usual", "Usual (ENOENT, EEXIST)"),
    ("EPERM", "EPERM"),
    ("ENOMEM", "ENOMEM"),
    ("E2BIG", "E2BIG"),
    ("EINTR", "Killed meanwhile"),
    ("other", "Other"),
    ("bad", "Bad"),
    ("oom_kills", "OOM kills"),
    ("transport_failures", "Transport failures"),
    ("elements", "Elements"),
    ("p50_ms", "p50 ms"),
    ("p95_ms", "p95 ms"),
    ("p99_ms", "p99 ms"),
)
_NAMED: Final = ("OK", "EPERM", "ENOMEM", "E2BIG", "EINTR")


def add_page(environment: Environment, run: LoadRun) -> None:
    """Add the tab *Models*, ``/models`` and its data to the web page, where there is one."""
    web = environment.web_ui
    if web is None or web.app is None:
        return
    web.app.register_blueprint(_blueprint(run))
    web.app.before_request(lambda: _refusal(environment))
    web.app.after_request(lambda answer: _with_models(answer, run))
    gevent.spawn(_keep_history, run)
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


def _keep_history(run: LoadRun) -> None:
    while True:
        gevent.sleep(_HISTORY_SECONDS)
        run.note_history()


def _blueprint(run: LoadRun) -> Blueprint:
    blueprint = Blueprint("bpfleet", __name__)

    @blueprint.route("/models")
    def page() -> Response:
        return Response(_PAGE.read_text("utf-8"), mimetype="text/html")

    @blueprint.route("/models.json")
    def data() -> Response:
        body = {
            "models": run.summary(),
            "outcomes": list(run.outcomes.rows()),
            "history": run.history.as_data(),
            "thresholds": run.passed_thresholds(),
        }
        return Response(json.dumps(body), mimetype="application/json")

    @blueprint.route("/models.csv")
    def table() -> Response:
        return Response(run.outcomes.as_csv(), mimetype="text/csv")

    return blueprint


def _refusal(environment: Environment) -> Response | None:
    """What is wrong with the form, in one line, before anything is started with it."""
    if request.method != "POST" or request.path != "/swarm":
        return None
    wished = argparse.Namespace(**vars(environment.parsed_options))
    try:
        for name, value in request.form.items():
            if isinstance(held := getattr(wished, name, None), str | int):
                setattr(wished, name, type(held)(value))
        LoadOptions.parsed(wished)
    except (OptionError, ValueError) as error:
        return jsonify({"success": False, "message": str(error), "host": environment.host})
    return None


def _with_models(answer: Response, run: LoadRun) -> Response:
    """Locust's page asks for its statistics every two seconds; the tab's rows travel along."""
    if request.path == "/stats/requests" and answer.is_json:
        rows = [_row(summary) for summary in run.summary()]
        body = {**answer.get_json(), "extended_stats": [{"key": _KEY, "data": rows}]}
        answer.set_data(json.dumps(body))
    if request.path == "/" and answer.mimetype == "text/html":
        page = answer.get_data(as_text=True)
        answer.set_data(page.replace("</body>", _LINK.read_text("utf-8") + "</body>"))
    return answer


def _row(summary: dict[str, Any]) -> dict[str, str]:
    """What the tab shows of a model, as people read numbers."""
    errnos = summary["errnos"]
    usual = sum(errnos.get(errno, 0) for errno in USUAL_ERRNOS)
    named = sum(errnos.get(errno, 0) for errno in _NAMED)
    shown = {errno: errnos.get(errno, 0) for errno in _NAMED}
    shown |= {"usual": usual, "other": sum(errnos.values()) - usual - named}
    row: dict[str, Any] = {key: summary[key] for key, _ in _COLUMNS if key in summary} | shown
    bad = {"bad": f"{summary['bad_share']:.1%}"}
    return {key: _read(value) for key, value in row.items()} | bad


def _read(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:,.0f}"
