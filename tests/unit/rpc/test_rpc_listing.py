"""filter, order_by and pages of long lists."""

from dataclasses import dataclass, field

import pytest

from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.listing import listed
from bpfleet.v1 import fleet_service_pb2 as pb


@dataclass(frozen=True)
class Thing:
    name: str
    size: int = 0
    ready: bool = True
    labels: dict[str, str] = field(default_factory=dict)


FIELDS = {
    "name": lambda each: each.name,
    "size": lambda each: each.size,
    "ready": lambda each: each.ready,
}
THINGS = [
    Thing("a", 3, True, {"zone": "x"}),
    Thing("b", 1, False),
    Thing("c", 3, False, {"zone": "y"}),
    Thing("d", 2, True, {"zone": "x", "example.com/rack": "7"}),
]


def names(**request):
    """The names of all pages, and how many pages there were."""
    found, pages, token = [], 0, ""
    while True:
        asked = pb.ListFleetNodesRequest(page_token=token, **request)
        page = listed(THINGS, asked, FIELDS, labels=lambda each: each.labels)
        found += [each.name for each in page.page]
        pages, token = pages + 1, page.next_page_token
        assert page.total >= len(page.page)
        if not token:
            return "".join(found), pages


@pytest.mark.parametrize(
    ("filter_text", "expected"),
    [
        ("", "abcd"),
        ("size = 3", "ac"),
        ("size >= 2 AND ready = true", "ad"),
        ("size<2", "b"),
        ("ready != true", "bc"),
        ('name = "d"', "d"),
        ("name : b", "b"),
        ("labels.zone = x", "ad"),
        ("labels.example.com/rack = 7", "d"),
        ("labels.zone != x", "bc"),
        ("size = 9", ""),
    ],
)
def test_a_filter_lets_through_what_meets_all_conditions(filter_text, expected):
    assert names(filter=filter_text)[0] == expected


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("", "abcd"),
        ("name desc", "dcba"),
        ("size", "bdac"),
        ("size desc", "acdb"),
        ("ready", "bcad"),
    ],
)
def test_pages_of_any_size_are_the_list_in_its_order(order_by, expected, size):
    found, pages = names(order_by=order_by, page_size=size)
    assert (found, pages) == (expected, -(-4 // size))


@pytest.mark.parametrize(
    "filter_text",
    [
        "colour = red", "size", "size = big", "ready = 1", "size = 1 OR size = 2", "= 1", "size = 1 size = 2",
        "x" * 2000, " AND ".join(["size = 1"] * 17), 'name = "', "size = " + "9" * 30,
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_the_name_of_the_field(filter_text):
    with pytest.raises(ApiError, match=r"^filter: "):
        names(filter=filter_text)


@pytest.mark.parametrize("order_by", ["colour", "size up", "size, name", "labels.zone"])
def test_an_order_that_is_none_is_refused(order_by):
    with pytest.raises(ApiError, match=r"^order_by: "):
        names(order_by=order_by)


def test_a_token_belongs_to_one_filter_and_order():
    first = listed(THINGS, pb.ListFleetNodesRequest(page_size=1), FIELDS, labels=lambda e: e.labels)
    for other in ({"filter": "size = 3"}, {"order_by": "size"}):
        request = pb.ListFleetNodesRequest(page_token=first.next_page_token, **other)
        with pytest.raises(ApiError, match="another filter"):
            listed(THINGS, request, FIELDS, labels=lambda e: e.labels)
