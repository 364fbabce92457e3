"""The page is whole in itself and holds the data it draws."""

import json
import re
from dataclasses import replace

import pytest
from sample_fleet import small_scenario

from bpfleet.report.compare import Comparison, compare
from bpfleet.report.page import to_html
from bpfleet.report.pagedata import page_data, status_of


@pytest.fixture(scope="module")
def result() -> Comparison:
    return compare(small_scenario(), ("5.10", "6.12"))


def test_every_model_says_how_sure_it_is(result: Comparison) -> None:
    known = [model["known_by"] for model in page_data(result)["meta"]["models"]]
    assert known == ["recorded (5.10.262)", "recorded (6.12.107)"]


def test_nothing_is_fetched(result: Comparison) -> None:
    page = to_html(result)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|import\(", page)
    assert "http://www.w3.org" in page  # the namespace of SVG, which is a name and no address
    assert len(re.findall("https?://", page)) == 1


def test_the_data_inside_reads_back(result: Comparison) -> None:
    page = to_html(result)
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert found is not None
    assert json.loads(found.group(1)) == json.loads(json.dumps(page_data(result)))


def test_text_cannot_break_out_of_the_page(result: Comparison) -> None:
    nasty = replace(result, title="</script><script>alert(1)</script>")
    page = to_html(nasty)
    assert page.count("<script") == 2
    assert "<script>alert" not in page


def test_cells_show_the_worst_that_happened(result: Comparison) -> None:
    cells = {node.node: {m: status_of(r) for m, r in node.models.items()} for node in result.nodes}
    assert cells["large-0001"]["6.12"] == "enomem"
    assert cells["large-0001"]["5.10"] == "eperm"
    assert cells["small-0001"]["6.12"] == "oom"
    assert cells["small-0001"]["5.10"] == "ok"


def test_series_add_up_to_the_fleet(result: Comparison) -> None:
    data = page_data(result)
    for model in result.models:
        by_class = data["time"][model]["class"]
        by_workload = data["time"][model]["workload"]
        for step in range(9):
            total = sum(n.models[model].samples[step].charged_bytes for n in result.nodes)
            assert sum(values[step] for values in by_class.values()) == total
            assert sum(values[step] for values in by_workload.values()) == total


def test_findings_name_workloads_and_models(result: Comparison) -> None:
    text = " ".join(page_data(result)["findings"])
    assert "bpftrace" in text
    assert "cannot start because of EPERM: 2 under 5.10 (bpftrace 2); none under 6.12" in text
    assert "OOM-killed: 2 under 6.12 (probe 2); none under 5.10" in text


def test_kills_are_counted_in_full_and_listed_in_part(result: Comparison) -> None:
    groups = page_data(result)["kills"]
    for group in groups:
        for model, found in group["models"].items():
            all_kills = [
                kill
                for node in result.nodes
                for kill in node.models[model].oom_kills
                if kill.workload == group["workload"]
            ]
            assert found["count"] == len(all_kills)
            assert found["list"]
            assert all(kill["fields"]["candidates"] for kill in found["list"])
    assert sum(group["count"] for group in groups) == sum(t.oom_kills for t in result.totals)
