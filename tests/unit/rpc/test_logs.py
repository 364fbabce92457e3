"""Log lines: one an event, whatever is in it, readable by programs in either format."""

import json
import logging

import pytest

from bpfleet.rpc.logs import configure_logging


@pytest.fixture
def logged(capsys):
    """Logs something in a format; gives back the lines without their time."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def log(log_format, write):
        configure_logging("info", log_format)
        write(logging.getLogger("bpfleet.test"))
        return capsys.readouterr().err.splitlines()

    yield log
    root.handlers[:], root.level = before


def test_text_quotes_what_is_not_a_word(logged):
    (line,) = logged(
        "text", lambda log: log.info("event=away agent=%s reason=%s", "a1", 'no "way" here')
    )
    _, fields = line.split(" ", 1)
    assert fields == 'level=INFO logger=bpfleet.test event=away agent=a1 reason="no \\"way\\" here"'


def test_json_keeps_keys_and_numbers(logged):
    (line,) = logged(
        "json", lambda log: log.warning("event=serving host=%s port=%d late=%r", "::1", 7070, "a b")
    )
    fields = json.loads(line)
    assert fields.pop("time").endswith("Z")
    assert fields == {
        "level": "WARNING",
        "logger": "bpfleet.test",
        "event": "serving",
        "host": "::1",
        "port": 7070,
        "late": "a b",
    }


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_and_a_line_break_stay_in_one_line(logged, log_format):
    def fail(log):
        try:
            raise ZeroDivisionError("a\nb")
        except ZeroDivisionError:
            log.exception("event=broken node=%s", "n\n1")

    (line,) = logged(log_format, fail)
    assert "ZeroDivisionError: a\\nb" in line
    assert "n\\n1" in line


def test_what_other_libraries_log_is_one_message(logged):
    (line,) = logged("json", lambda log: log.info("took %.1f s = too long", 2.25))
    assert json.loads(line)["message"] == "took 2.2 s = too long"
