import pytest

from bpfleet.kernel.mm.oom_kill import Candidate, badness, killed_line, select, summary_line


def process(pid: int, rss: int = 0, *, adj: int = 0, tables: int = 0, shared: int = 0) -> Candidate:
    return Candidate(pid, f"p{pid}", 0, rss, shared, tables, rss, adj, "/g")


def test_points_are_resident_pages_and_page_tables() -> None:
    assert badness(process(1, 100, tables=3, shared=20), 10_000) == 123


@pytest.mark.parametrize(("adj", "points"), [(0, 50), (500, 50 + 500 * 7), (-999, 50 - 999 * 7)])
def test_oom_score_adj_counts_whole_thousandths_of_the_limit(adj: int, points: int) -> None:
    assert badness(process(1, 50, adj=adj), 7_999) == points


def test_a_process_at_minus_1000_is_never_chosen() -> None:
    assert badness(process(1, 10_000, adj=-1000), 10_000) is None
    assert select([process(1, 10_000, adj=-1000)], 10_000) is None


def test_the_worst_is_chosen_and_the_later_one_among_equals() -> None:
    chosen = select([process(1, 5), process(2, 9), process(3, 9), process(4, 1)], 100)
    assert chosen is not None
    assert chosen.pid == 3


def test_somebody_is_chosen_even_where_all_points_are_negative() -> None:
    chosen = select([process(1, 1, adj=-900), process(2, 1, adj=-800)], 100_000)
    assert chosen is not None
    assert chosen.pid == 2


def test_log_lines_read_as_the_kernels() -> None:
    victim = process(42, 2560, tables=7)
    assert killed_line(victim, memcg=True) == (
        "Memory cgroup out of memory: Killed process 42 (p42) total-vm:10240kB, anon-rss:10240kB,"
        " file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:28kB oom_score_adj:0"
    )
    assert killed_line(victim, memcg=False).startswith("Out of memory: Killed process 42 (p42)")
    assert summary_line(victim, "/limit") == (
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        "oom_memcg=/limit,task_memcg=/g,task=p42,pid=42,uid=0"
    )
    assert "global_oom" in summary_line(victim, None)
