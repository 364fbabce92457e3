"""Pages go on after a key, so items that come and go do not move the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.rpc.errors import ApiError
from bpfleet.rpc.paging import page_by_key, page_key, page_position, page_size, page_token


def walk(items, size):
    seen, token, pages = [], "", 0
    while True:
        page, token = page_by_key(items, key=lambda item: item, requested_size=size, token=token)
        assert len(page) <= size
        seen += page
        pages += 1
        if not token:
            return seen, pages


@given(st.lists(st.integers(), unique=True), st.integers(1, 7))
def test_all_pages_together_are_the_list(items, size):
    items.sort()
    seen, pages = walk(items, size)
    assert seen == items
    assert pages == max(1, -(-len(items) // size))


@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_tokens_hold_any_key(key):
    assert page_key(page_token(key)) == key


def test_an_item_removed_between_two_pages_hides_no_other():
    items = ["a", "b", "c", "d"]
    _, token = page_by_key(items, key=lambda item: item, requested_size=2, token="")
    page, _ = page_by_key(["a", "c", "d"], key=lambda item: item, requested_size=2, token=token)
    assert page == ["c", "d"]


@pytest.mark.parametrize(("requested", "size"), [(0, 100), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_page_sizes_are_bounded(requested, size):
    assert page_size(requested) == size


def test_a_negative_page_size_is_refused():
    with pytest.raises(ApiError, match=r"^page_size: -1 is negative"):
        page_size(-1)


@pytest.mark.parametrize("token", ["x", "!!!!", "AAAA", page_token("a")[:-1] + "*", "é"])
def test_tokens_of_others_are_refused(token):
    with pytest.raises(ApiError, match=r"^page_token: "):
        page_key(token)


def test_a_token_of_a_list_of_names_does_not_fit_a_list_of_numbers():
    with pytest.raises(ApiError, match=r"^page_token: "):
        page_by_key([1, 2], key=lambda item: item, requested_size=1, token=page_token("name"))


@pytest.mark.parametrize("key", ["name", "-1", "\N{SUPERSCRIPT TWO}", "9" * 5000, ""])
def test_only_a_number_is_a_position(key):
    with pytest.raises(ApiError, match=r"^page_token: "):
        page_position(page_token(key))


def test_a_position_comes_back_from_its_token():
    assert page_position(page_token("17")) == 17
    assert page_position("") is None
