"""Documents: read and written alike, wrong ones refused in one line, names replaced, payers summed."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfleet.captures.anonymise import anonymised
from bpfleet.captures.charges import about_process, openmetrics, payer_rows
from bpfleet.captures.document import (
    SCHEMA,
    Cgroup,
    ChargesRead,
    Document,
    Host,
    Map,
    Payer,
    Process,
    Program,
    User,
    document_schema,
    read_document,
    write_document,
)
from bpfleet.workload.errors import SpecError

POD = (
    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0123abcd_0123_0123_0123_0123456789ab.slice"
    "/cri-containerd-" + "ab" * 32 + ".scope"
)
PAYER = Payer(kind="cgroup", path=POD, cgroup_id=77, read=True)
DOCUMENT = Document(
    schema=SCHEMA,
    host=Host(
        name="secret-host", release="6.12.1", machine="x86_64", possible_cpus=4, ram_bytes=8 << 30
    ),
    charges=ChargesRead(read=True, how="objcg"),
    maps=(
        Map(id=1, type=1, key_size=4, value_size=8, max_entries=10, name="secret_map", memlock_bytes=5000, payer=PAYER),
        Map(id=2, type=2, key_size=4, value_size=8, max_entries=1, name="b", memlock_bytes=300,
            payer=Payer(kind="cgroup", path="/old", removed=True, read=True), pinned=("/sys/fs/bpf/secret_pin",)),
        Map(id=3, type=999, key_size=4, value_size=8, max_entries=1, memlock_bytes=1, payer=Payer(kind="unknown")),
    ),
    programs=(Program(id=9, type=2, insn_cnt=4, name="secret_prog", memlock_bytes=4096, payer=PAYER, maps=(1,)),),
    processes=(Process(pid=5, comm="secretd", cgroup=POD, maps=(1,), memlock=(65536, None)),),
    users=(User(uid=0, locked_pages=3),),
    cgroups=(Cgroup(path=POD, what={"kind": "pod-container", "name": "abababababab"}, max=1 << 20, current=70_000),),
)  # fmt: skip


def test_a_document_survives_writing_and_reading() -> None:
    assert read_document(write_document(DOCUMENT), "f") == DOCUMENT


def test_fields_of_a_newer_collector_are_passed_over() -> None:
    data = {**json.loads(write_document(DOCUMENT)), "novelty": 1}
    assert read_document(json.dumps(data).encode(), "f") == DOCUMENT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "f: not JSON"),
        (b"{", "f: not JSON"),
        (b"[]", "f: document: expected `object`"),
        (b'{"schema": "x"}', "f: document: object missing required field `host`"),
        (
            write_document(DOCUMENT).replace(b"capture/1", b"capture/9"),
            "f: schema = 'bpfleet.capture/9'",
        ),
        (
            write_document(DOCUMENT).replace(b'"possible_cpus":4', b'"possible_cpus":0'),
            "f: host.possible_cpus",
        ),
        (
            write_document(DOCUMENT).replace(b'"max_entries":10', b'"max_entries":-1'),
            r"f: maps\[0\].max_entries",
        ),
    ],
)
def test_a_bad_document_is_refused_in_one_line(text: bytes, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        read_document(text, "f")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_a_damaged_document_causes_nothing_but_a_spec_error(data: st.DataObject) -> None:
    text = bytearray(write_document(DOCUMENT))
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SpecError):
        read_document(bytes(text), "f")


def test_the_schema_names_every_part() -> None:
    assert {"Document", "Host", "Map", "Payer", "Cgroup", "Process"} <= document_schema()[
        "$defs"
    ].keys()


def test_pseudonyms_replace_every_name_and_no_number() -> None:
    hidden = anonymised(DOCUMENT, b"key")
    text = write_document(hidden).decode()
    assert "secret" not in text
    assert "0123abcd" not in text
    assert "abababab" not in text
    assert hidden.maps[0].memlock_bytes == 5000
    assert hidden.cgroups[0].what["kind"] == "pod-container"
    assert hidden.maps[0].payer.path == hidden.cgroups[0].path == hidden.processes[0].cgroup


def test_pseudonyms_depend_on_the_key_alone() -> None:
    assert anonymised(DOCUMENT, b"key") == anonymised(DOCUMENT, b"key")
    assert anonymised(DOCUMENT, b"key").maps[0].name != anonymised(DOCUMENT, b"other").maps[0].name


def test_each_payer_has_a_row_with_its_sums_limit_and_nature() -> None:
    first, *rest = payer_rows(DOCUMENT)
    assert (first.payer, first.maps, first.programs, first.bytes) == (POD, 1, 1, 9096)
    assert (first.usage, first.limit, first.what) == (70_000, 1 << 20, "pod-container abababababab")
    assert [row.payer for row in rest] == ["/old (removed)", "not known", "uid 0"]
    assert rest[1].how == "deduced"
    assert (rest[2].usage, rest[2].other, rest[2].limit) == (12288, 12288, 65536)


def test_a_users_counter_is_split_into_bpf_and_the_rest() -> None:
    payer = Payer(kind="user", uid=0, read=True)
    document = msgspec.structs.replace(
        DOCUMENT,
        charges=ChargesRead(read=True, how="user"),
        maps=(
            Map(
                id=1,
                type=1,
                key_size=4,
                value_size=8,
                max_entries=9,
                memlock_bytes=8192,
                payer=payer,
            ),
        ),
        programs=(),
    )
    (row,) = payer_rows(document)
    assert (row.usage, row.other, row.limit) == (12288, 4096, 65536)


def test_openmetrics_has_every_row_and_an_end() -> None:
    text = openmetrics(payer_rows(DOCUMENT), 'a"host')
    assert 'bpfleet_payer_bpf_bytes{host="a\\"host",payer="/old (removed)"' in text
    assert text.endswith("# EOF\n")


def test_a_process_is_told_who_holds_its_counters() -> None:
    first, *rest = about_process(DOCUMENT, 5)
    assert first.startswith("process 5 (secretd) of uid 0 in /kubepods")
    assert "RLIMIT_MEMLOCK 65,536 bytes" in first
    assert any(
        "70,000 bytes in use under a limit of 1,048,576; largest: secret_map 5,000" in line
        for line in rest
    )
    assert about_process(DOCUMENT, 6) == ["process 6 holds no BPF object and no locked memory"]
    assert about_process(DOCUMENT, None)[0].startswith(POD)
