"""The page in a real Chromium, without a mouse: by keyboard, at three widths, light and dark, read by axe-core."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from accessibility import axe, complaints
from browser import Browser, needs_chromium
from msgspec.structs import replace
from sample_fleet import small_scenario

from bpfleet.report.compare import compare
from bpfleet.report.origin import origin_data
from bpfleet.report.page import to_html
from bpfleet.report.sections import study

pytestmark = [pytest.mark.browser, pytest.mark.slow, needs_chromium]

COMMAND = "bpfleet compare --scenario fleet.toml"
FOCUS = "(() => { const e = document.activeElement; return e.id || e.className || e.tagName; })()"
LABEL = "document.activeElement.getAttribute('aria-label')"
READY = "document.documentElement.dataset.ready === 'true'"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    source = folder / "fleet.toml"
    source.write_text("# the fleet of <a> colleague\n")
    scenario = small_scenario()
    result = compare(scenario, ("5.10", "6.12"))
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    extra = {
        **study(scenario, result, jobs=1),
        "origin": origin_data(COMMAND, [source], assumed=["heap 64 MiB (--user-memory)"], now=now),
    }
    page = folder / "report.html"
    page.write_text(to_html(result, extra=extra))
    return page


def visit(file: Path, story) -> None:
    async def main() -> None:
        async with Browser() as page:
            await page.open(file.as_uri())
            await page.until(READY)
            await story(page)
            assert page.errors == []

    asyncio.run(main())


async def tab_stops(page: Browser) -> list[str]:
    """What Tab leads to, from the top of the page until it leaves it."""
    await page.value("scrollTo(0, 0); document.activeElement.blur(); document.body.focus()")
    found: list[str] = []
    while len(found) < 300:
        await page.press("Tab")
        if await page.value("document.activeElement === document.body"):
            break
        found.append(await page.value(FOCUS))
    return found


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_has_no_fault_for_axe_and_never_scrolls_sideways(page_file: Path, dark: bool) -> None:
    axe()

    async def story(page: Browser) -> None:
        await page.prefer(dark=dark)
        await page.until(
            f"document.documentElement.dataset.theme === '{'dark' if dark else 'light'}'"
        )
        for width in (1280, 768, 390):
            await page.resize(width, 800)
            for opened in (False, True):
                await page.value(
                    f"for (const d of document.querySelectorAll('details')) d.open = {str(opened).lower()}"
                )
                assert await page.value("document.documentElement.scrollWidth") <= width
                # Regions are marked when the browser has laid them out.
                await page.promise(
                    "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
                )
                assert await complaints(page) == [], (width, opened)

    visit(page_file, story)


def test_a_fleet_is_one_tab_stop_and_arrow_keys_walk_through_it(page_file: Path) -> None:
    async def story(page: Browser) -> None:
        stops = await tab_stops(page)
        assert stops[0] == "skip"
        assert sum(stop.startswith("square") for stop in stops) == 1
        assert len(stops) < 60
        await page.value("document.querySelector('#heat [tabindex=\"0\"]').focus()")
        seen = [await page.value(LABEL)]
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Home", "ArrowUp", "ArrowUp"):
            await page.press(key)
            seen.append(await page.value(LABEL))
        assert [text.split(",")[:2] for text in seen] == [
            ["small-0001", " 5.10"],
            ["small-0002", " 5.10"],
            ["large-0001", " 5.10"],
            ["large-0001", " 6.12"],
            ["small-0001", " 6.12"],
            ["small-0001", " 5.10"],
            ["small-0001", " 5.10"],
        ]
        await page.press("Enter")
        assert (
            await page.value("document.querySelector('#cell h3').textContent")
            == "small-0001 under 5.10"
        )
        assert await page.value("document.activeElement.classList.contains('square')")
        # Coloured anew, the same square is the one that Tab leads to.
        await page.press("ArrowDown")
        await page.value("document.querySelectorAll('#heat-by button')[1].click()")
        assert (
            await page.value(
                "document.querySelector('#heat [tabindex=\"0\"]').getAttribute('aria-label')"
            )
        ).startswith("small-0001, 6.12")

    visit(page_file, story)


def test_more_nodes_are_no_more_tab_stops(tmp_path: Path) -> None:
    scenario = small_scenario()
    counts = []
    for nodes in (3, 12):
        file = tmp_path / f"{nodes}.html"
        file.write_text(to_html(compare(replace(scenario.scaled_to(nodes), steps=1), ("6.12",))))

        async def story(page: Browser) -> None:
            counts.append(len(await tab_stops(page)))

        visit(file, story)
    assert counts[0] == counts[1]


def test_the_skip_link_leads_past_the_sections_and_the_theme_is_switched_by_key(
    page_file: Path,
) -> None:
    async def story(page: Browser) -> None:
        await page.press("Tab")
        await page.press("Enter")
        assert await page.value("document.activeElement.id") == "main"
        await page.value("document.querySelector('#theme').focus()")
        await page.press("Enter")
        assert await page.value("document.documentElement.dataset.theme") == "dark"
        await page.press(" ")
        assert await page.value("document.documentElement.dataset.theme") == "light"

    visit(page_file, story)


def test_no_two_lines_of_a_chart_look_alike_without_colour(page_file: Path) -> None:
    async def story(page: Browser) -> None:
        lines = await page.value(
            "[...document.querySelectorAll('#cpu-chart polyline')].map((line) =>"
            " [line.getAttribute('stroke-dasharray'),"
            "  line.nextElementSibling.getAttribute('d').replace(/[0-9.]+ [0-9.]+/, '')])"
        )
        assert len(lines) > 1
        assert len({tuple(line) for line in lines}) == len(lines)
        areas = await page.value(
            "[...document.querySelectorAll('#time-charts .legend .swatch rect[fill^=url]')]"
            ".map((area) => area.getAttribute('fill'))"
        )
        assert len(areas) == len(set(areas)) > 1

    visit(page_file, story)


def test_the_answer_says_what_it_rests_on_and_carries_its_inputs(page_file: Path) -> None:
    async def story(page: Browser) -> None:
        basis = await page.value("document.querySelector('#basis').innerText")
        assert "5.10" in basis
        assert "recorded (6.12." in basis
        assert "heap 64 MiB (--user-memory)" in basis
        # Beside the verdict: before the first table.
        assert await page.value(
            "document.querySelector('#basis').compareDocumentPosition(document.querySelector('#outcomes')) === 4"
        )
        assert await page.value("document.querySelector('#repeat-command').textContent") == COMMAND
        repeat = await page.value("document.querySelector('#repeat-text').innerText")
        assert "2026-01-02 03:04 UTC" in repeat
        (told,) = await page.value("DATA.origin.inputs")
        assert told["text"] == "# the fleet of <a> colleague\n"
        assert told["sha256"] in repeat
        await page.value(
            "const kept = URL.createObjectURL;"
            "URL.createObjectURL = (blob) => { window.saved = blob.text(); return kept(blob); }"
        )
        await page.value("[...document.querySelectorAll('#repeat-text button')].at(-1).click()")
        assert await page.promise("window.saved") == told["text"]

    visit(page_file, story)


def test_on_paper_everything_is_open_and_light(page_file: Path) -> None:
    async def story(page: Browser) -> None:
        await page.value("document.querySelector('#theme').click()")
        closed_boxes = "document.querySelectorAll('details:not([open])').length"
        state = f"JSON.stringify([document.documentElement.dataset.theme, {closed_boxes}])"
        theme, closed = json.loads(await page.value(state))
        assert theme == "dark"
        assert closed
        await page.value("dispatchEvent(new Event('beforeprint'))")
        assert json.loads(await page.value(state)) == ["light", 0]
        await page.call("Emulation.setEmulatedMedia", media="print")
        assert (
            await page.value("getComputedStyle(document.querySelector('.top')).display") == "none"
        )
        await page.call("Emulation.setEmulatedMedia", media="")
        await page.value("dispatchEvent(new Event('afterprint'))")
        assert json.loads(await page.value(state)) == ["dark", closed]

    visit(page_file, story)
