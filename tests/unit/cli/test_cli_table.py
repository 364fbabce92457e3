"""The layout of tables at any width."""

from operator import itemgetter

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bpfleet.cli.output import wrapped
from bpfleet.cli.table import BYTES, COUNT, TEXT, Column, lay_out

WORDS = st.text("abcdefgh-_./é", min_size=1, max_size=30)
TEXTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
NUMBERS = st.integers(0, 10**9).map("{:,}".format)


@st.composite
def tables(draw):
    """Columns of every kind, and rows of cells for them."""
    kinds = draw(
        st.lists(st.sampled_from(["text", "cut", "folded", "number"]), min_size=1, max_size=8)
    )
    columns = [
        Column(
            draw(st.text("abcdefgh ", min_size=1, max_size=12)).strip() or "x",
            itemgetter(n),
            COUNT if kind == "number" else TEXT,
            shrinks=kind == "cut",
            folds=kind == "folded",
            priority=draw(st.integers(0, 3)) if n else 0,
        )
        for n, kind in enumerate(kinds)
    ]
    cell = {"number": NUMBERS, "text": WORDS, "cut": TEXTS, "folded": TEXTS}
    rows = draw(st.lists(st.tuples(*(cell[kind] for kind in kinds)), max_size=5))
    return columns, rows


@given(tables(), st.integers(20, 200))
def test_no_line_is_wider_than_the_terminal_unless_two_columns_have_no_room(table, width):
    columns, rows = table
    layout = lay_out(columns, rows, width=width)
    # Two columns whose text may not be cut may need more.
    least = 2 * (30 + 2) + 13
    for _, lines in layout.blocks:
        assert all(cell_len(line) <= max(width, least) for line in lines)


@given(tables(), st.integers(20, 200))
def test_numbers_and_folded_texts_are_whole_wherever_their_column_is(table, width):
    columns, rows = table
    layout = lay_out(columns, rows, width=width)
    text = "\n".join(line for _, lines in layout.blocks for line in lines)
    letters = "".join(text.split())
    for number, column in enumerate(columns):
        if column.head in layout.left_out:
            continue
        for row in rows:
            if column.number:
                assert row[number] in text
            elif column.folds:
                assert all(letters.count(letter) for letter in set(row[number]) - {" "})


@given(tables())
def test_without_a_width_every_row_is_one_line(table):
    columns, rows = table
    ((heads, lines),) = lay_out(columns, rows, width=None).blocks
    assert (heads, len(lines)) == (1, 1 + len(rows))


def test_columns_are_left_out_by_priority_and_named():
    columns = [
        Column("name", itemgetter(0)),
        Column("first to go", itemgetter(1), COUNT, priority=2),
        Column("stays", itemgetter(2), COUNT, priority=1),
    ]
    layout = lay_out(columns, [("n" * 20, "1,000,000", "2,000,000")], width=32)
    assert layout.left_out == ("first to go",)
    assert "2,000,000" in layout.blocks[0][1][-1]


def test_what_may_not_be_left_out_comes_in_blocks_with_its_keys():
    columns = [
        Column("name", itemgetter(0)),
        *(Column(f"k{n}", itemgetter(n), BYTES) for n in (1, 2, 3)),
    ]
    layout = lay_out(columns, [("workload", "100 MiB", "200 MiB", "300 MiB")], width=28)
    assert [lines for _, lines in layout.blocks] == [
        ("name           k1       k2", "workload  100 MiB  200 MiB"),
        ("name           k3", "workload  300 MiB"),
    ]


def test_a_number_stays_with_its_unit_and_long_heads_fold():
    columns = [
        Column("name", itemgetter(0)),
        Column("charged at creation", itemgetter(1), BYTES),
        Column("classes", itemgetter(2), folds=True),
    ]
    ((heads, lines),) = lay_out(
        columns, [("map", "1 MiB", "slab 3 MiB, percpu 14 MiB, vmalloc 1 MiB")], width=36
    ).blocks
    assert heads > 1
    assert all(not line.rstrip().endswith(("3", "14", " 1")) for line in lines)
    assert "percpu" in " ".join(lines)


def test_a_row_of_one_cell_is_a_heading():
    columns = [Column("", itemgetter(0)), Column("6.12", itemgetter(1), COUNT)]
    ((_, lines),) = lay_out(columns, [["calls, all 100 s"], ["EPERM", "5"]], width=80).blocks
    assert lines[1:] == ("calls, all 100 s", "EPERM     5")


def test_prose_is_broken_between_words_under_its_own_beginning():
    text = "  to do:  raise the soft limit; capabilities do not help\nshort"
    assert wrapped(text, 30).split("\n") == [
        "  to do:  raise the soft",
        "    limit; capabilities do not",
        "    help",
        "short",
    ]
    assert wrapped(text, None) == text
