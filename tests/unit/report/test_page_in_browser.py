"""The page in a real Chromium: it draws everything, and everything that can be clicked works."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sample_fleet import small_scenario

from bpfleet.report.compare import compare
from bpfleet.report.page import to_html
from bpfleet.report.repeat import intervals_data
from bpfleet.report.sections import study
from bpfleet.report.summary import ROWS
from bpfleet.report.upgrade import upgrade_data, upgrade_lines

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]

VISITOR = Path(__file__).with_name("visitor.js")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    scenario = small_scenario()
    result = compare(scenario, ("5.10", "6.12"))
    extra = {
        **study(scenario, result, jobs=1),
        "repetitions": intervals_data([result, result]),
        "upgrade": upgrade_data(result, upgrade_lines(result, "5.10", "6.12", [])),
    }
    page = tmp_path_factory.mktemp("page") / "report.html"
    visitor = f"<script>{VISITOR.read_text()}</script></body>"
    page.write_text(to_html(result, extra=extra).replace("</body>", visitor))
    dom = dumped(page)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.S)
    assert found is not None, dom[-2000:]
    read: dict[str, object] = json.loads(html.unescape(found.group(1)))
    return read


def dumped(page: Path) -> str:
    """The document after its scripts ran, on the screen of a small laptop."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-extensions",
               "--window-size=1280,720", "--virtual-time-budget=5000", f"--user-data-dir={page.parent / 'profile'}",
               "--dump-dom", page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_scripts_run_to_their_end_without_errors_or_network(seen: dict[str, object]) -> None:
    assert seen["errors"] == []
    assert seen["ready"] == "true"
    assert seen["network"] == 0


def test_every_section_is_drawn(seen: dict[str, object]) -> None:
    assert seen["rows"] == len(ROWS) + 4
    assert seen["squares"] == 3 * 2
    for part in (
        "bars",
        "charts",
        "dots",
        "causes",
        "kills",
        "limits",
        "limitBars",
        "meters",
        "recordings",
        "lines",
        "fidelity",
        "upgrade",
        "intervals",
    ):
        assert isinstance(seen[part], int)
        assert seen[part], part


def test_a_square_shows_the_replicas_of_its_node(seen: dict[str, object]) -> None:
    texts = seen["texts"]
    assert isinstance(texts, list)
    assert len(texts) == 6
    assert texts[0] == "small-0001 under 5.10"
    assert texts[-1] == "large-0001 under 6.12"
    assert seen["replicas"] == 3


def test_the_heat_map_is_coloured_by_what_is_asked(seen: dict[str, object]) -> None:
    heat = seen["heat"]
    assert isinstance(heat, list)
    assert len({tuple(colours) for colours in heat}) == 3


def test_the_charts_can_be_split_by_class_instead(seen: dict[str, object]) -> None:
    assert seen["byWorkload"] != seen["byClass"]
    assert "vmalloc" in str(seen["byClass"])


def test_light_and_dark_are_both_there(seen: dict[str, object]) -> None:
    assert sorted(map(str, seen["theme"])) == ["dark", "light"]  # type: ignore[call-overload]


def test_it_fits_a_laptop_screen(seen: dict[str, object]) -> None:
    assert seen["wide"] is False
