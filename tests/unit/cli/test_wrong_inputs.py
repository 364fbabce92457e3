"""Wrong input, command by command: one line on standard error, what was wrong and what to do, and a status that fits.

A case is the command line, the status, and words of the line. ``{name}`` is a file of ``FILES``.
"""

import json
import shlex
from pathlib import Path

import pytest

from bpfleet.cli.main import main

MAP = {"id": 1, "type": "hash", "name": "t", "bytes_key": 4, "bytes_value": 8, "max_entries": 10}

FILES = {
    "good.json": json.dumps([MAP]).encode(),
    "empty.json": b"",
    "truncated.json": json.dumps([MAP])[:30].encode(),
    "null.json": b"null",
    "none.json": b"[]",
    "utf16.json": json.dumps([MAP]).encode("utf-16"),
    "latin1.json": b'[{"name": "\xe9"}]',
    "binary.json": bytes(range(256)),
    "negative.json": json.dumps([{**MAP, "bytes_key": -4}]).encode(),
    "huge.json": json.dumps([{**MAP, "max_entries": 1 << 40}]).encode(),
    "unknown.json": json.dumps([{**MAP, "type": "hasch"}]).encode(),
    "untyped.json": b'[{"id": 1, "name": "t"}]',
    "nested.json": json.dumps([[MAP]]).encode(),
    "capture.json": b'{"schema": "nosuch"}',
    "bad.toml": b"a = = 1",
    "field.toml": b"nodse = 1",
    "other.toml": b"x = 1",
    "nameless.toml": b'[[workloads]]\napplication = "beyla"',
    "kernel.toml": b'name = "x"\nrelease = "6"',
    "plan.toml": b'seed = 1\n[[faults]]\nkind = "nosuch"',
    "key": b"short",
}

CASES = [
    # Listings.
    ("size --inventory {empty.json}", 2, "empty.json: line 1 column 1: not JSON (empty)"),
    ("size --inventory {truncated.json}", 2, "truncated.json: line 1 column"),
    ("size --inventory {null.json}", 2, "null.json: not a list of objects"),
    ("size --inventory {none.json}", 2, "none.json: lists no map"),
    ("size --inventory {utf16.json}", 2, "utf16.json: byte 0: not UTF-8 text"),
    ("size --inventory {latin1.json}", 2, "latin1.json: byte 11: not UTF-8 text"),
    ("size --inventory {binary.json}", 2, "binary.json: byte 128: not UTF-8 text"),
    ("size --inventory {missing.json}", 2, "missing.json: no such file"),
    ("size --inventory {.}", 2, ": a folder, not a file"),
    ("size --inventory {negative.json}", 2, "[0].bytes_key = -4: out of range; use 0 to"),
    ("size --inventory {huge.json}", 2, "[0].max_entries = 1099511627776: out of range"),
    ("size --inventory {unknown.json}", 2, "1 of type hasch"),
    ("size --inventory {untyped.json}", 2, "[0].type: missing"),
    ("size --inventory {nested.json}", 2, "give each listing as a file of its own"),
    ("compare --inventory {good.json} --memory-limit 0", 2, "--memory-limit: 0: no process starts"),
    ("compare --inventory {good.json} --memlock many", 2, "--memlock: 'many': not a size"),
    ("compare --inventory {good.json} --user-memory -5", 2, "--user-memory: '-5': not a size"),
    # Kernels.
    ("compare --kernel ''", 2, "--kernel: '': no kernel is named"),
    ("compare --kernel 6.12,6.12", 2, "--kernel: 6.12 is named twice"),
    ("compare --kernel 6.12:nobfp", 2, "unknown variant 'nobfp'; did you mean 'nobpf'?"),
    ("compare --models 6.12", 2, "no such option --models; did you mean --kernel?"),
    ("compare --from 5.10", 2, "--from and --to go together"),
    ("size hash --kernel 9.99", 2, "unknown kernel '9.99'; nearest is 7.3"),
    ("size hash --kernel rhle9", 2, "unknown kernel 'rhle9'"),
    ("size hash --kernel {bad.toml}", 2, "bad.toml: not TOML"),
    ("size hash --kernel {kernel.toml}", 2, "base: expected a text"),
    ("size hash --kernel {missing.toml}", 2, "missing.toml: No such file or directory"),
    ("profile show 9.99", 2, "PROFILE: unknown kernel '9.99'"),
    ("profile capture --btf {binary.json}", 2, "not little-endian BTF"),
    ("profile capture --btf {missing}", 2, "missing: No such file or directory"),
    ("node create x --kernel 4.19", 2, "--kernel: unknown kernel '4.19'; nearest is 5.4"),
    ("agent --kernel 9.99", 2, "--kernel: unknown kernel '9.99'"),
    ("up --local --kernel 4.19", 2, "--kernel: unknown kernel '4.19'"),
    # Maps.
    ("size hasch", 2, "TYPE: unknown map type 'hasch'; did you mean 'hash'?"),
    ("size BPF_MAP_TYPE_HASHH", 2, "did you mean 'hash'?"),
    ("size hash --flags no_preallc", 2, "unknown flag 'no_preallc'; did you mean 'no_prealloc'?"),
    ("size hash --flags 0x1ffffffff", 2, "--flags: 0x1ffffffff: out of range"),
    ("size hash --key -1", 2, "--key: '-1': write a number"),
    ("size hash --entries 5G", 2, "--entries: 5G: out of range; use at most 4,294,967,295"),
    ("size hash --cpus 0", 2, "--cpus: 0 is out of range; use 1 to 8192"),
    ("size hash --cpus x", 2, "--cpus: 'x': not a whole number"),
    ("size", 2, "name a map TYPE, or --app, or --inventory"),
    ("map create n --pid 0 --type hash", 2, "--pid: 0 is out of range; use 1 to"),
    # Applications, scenarios, limits.
    ("size --app falko", 2, "application = 'falko': unknown; did you mean 'falco'?"),
    ("size --app falco --option x", 2, "--option: 'x': write NAME=N"),
    ("size --app falco --option buffer_byts=3", 2, "did you mean 'buffer_bytes'?"),
    ("application show falko", 2, "did you mean 'falco'?"),
    ("limit falko", 2, "neither a file nor an application; did you mean 'falco'?"),
    ("limit nosuch --scenario mixed-fleet", 2, "no such workload"),
    ("limit falco -o kubernets", 2, "--output: 'kubernets': did you mean 'kubernetes'?"),
    ("compare --scenario mixd-fleet", 2, "did you mean 'mixed-fleet'?"),
    ("compare --scenario {bad.toml}", 2, "bad.toml: not TOML"),
    ("scenario check {field.toml}", 2, "nodse: unknown field; did you mean 'nodes'?"),
    ("scenario init -o {bad.toml}", 2, "--force overwrites it"),
    ("compare --limits flaco=64M", 2, "flaco: no such workload; did you mean 'falco'?"),
    ("compare --limits falco=64Q", 2, "falco = '64Q': not a size"),
    ("compare --nodes 0", 2, "--nodes: 0 is out of range; use 1 to 100000"),
    ("compare --repetitions 0", 2, "repetitions = 0: out of range"),
    ("compare --report {nowhere/x.html}", 2, "does not exist; make it first"),
    ("compare --resume {good.json}", 2, "a file, not a folder"),
    (
        "compare {capture.json} --to 6.12",
        2,
        "capture.json: document: object missing required field",
    ),
    ("compare {capture.json}", 2, "captures need --to"),
    ("compare {capture.json} --to 6.12 --fill 120%", 2, "--fill: '120%': use 0% to 100%"),
    ("compare {capture.json} --to 6.12 --seed 3", 2, "--seed is for scenarios, not for captures"),
    # Incidents, errors, recordings.
    ("incident run s21-flod-to-the-limit", 2, "did you mean 's21-flood-to-the-limit'?"),
    ("incident show nosuch", 2, "'bpfleet incident list' has all"),
    ("incident run", 2, "name incidents to run, or give --all"),
    ("explain", 2, "give a message, or --errno"),
    ("explain --errno 9999", 2, "--errno: 9999 is not an errno"),
    ("explain --errno ENOMEEM", 2, "did you mean 'ENOMEM'?"),
    (
        "explain --errno ENOMEM --call map_creat",
        2,
        "--call: 'map_creat': did you mean 'map_create'?",
    ),
    ("oracle check {good.json}", 2, "good.json:1: not a recording"),
    ("oracle check {empty.json}", 2, "empty.json: holds no case"),
    ("oracle check {latin1.json}", 2, "latin1.json:1: not UTF-8 text"),
    ("oracle record --out {.}", 2, "nothing to record"),
    ("charges {binary.json}", 2, "binary.json: not JSON"),
    ("capture -o {nowhere/x.json}", 2, "does not exist; make it first"),
    ("capture --anonymise {key} --schema -o {.}", 2, ": a folder, not a file"),
    # Servers.
    ("node list --agent nowhere", 2, "--agent: 'nowhere' is not an address; write host:port"),
    ("node list --agent 127.0.0.1:1", 1, "no agent answers at 127.0.0.1:1"),
    ("node list --tls-cert {key}", 2, "--tls-cert: needs --tls-ca"),
    ("node list --token-file {missing}", 2, "--token-file: "),
    ("node create x --ram lots", 2, "--ram: 'lots': not a size"),
    ("node advance x nan", 2, "nan: not a number of seconds"),
    ("node list --filter nosuch=x", 2, "--filter: unknown column 'nosuch'"),
    ("node list --sort-by kernl", 2, "--sort-by: unknown column 'kernl'; did you mean 'kernel'?"),
    ("node list -o jsn", 2, "--output: 'jsn': did you mean 'json'?"),
    ("fleet status --coordinator 127.0.0.1:1", 1, "no coordinator answers at 127.0.0.1:1"),
    ("fleet apply {bad.toml}", 2, "bad.toml: not TOML"),
    ("fleet apply {other.toml}", 2, "other.toml: workloads: missing"),
    ("fleet apply {nameless.toml}", 2, "workloads[0].name: missing"),
    ("fleet taint n x:No", 2, "effect 'No' is unknown"),
    ("fleet label n abc", 2, "write KEY=VALUE to set a label"),
    ("fleet create x --application falco --memory-limit 12", 2, "no process starts under"),
    ("cgroup create n /x --file nope", 2, "write FILE=TEXT"),
    ("agent --listen nowhere", 2, "'nowhere' is not an address"),
    ("agent --node-ram 1K", 2, "--node-ram: 1024 bytes is out of range; use 64M to 16T"),
    ("agent --ram 1G", 2, "no such option --ram; did you mean --node-ram?"),
    ("coordinator --eviction-available 5", 2, "5 bytes is below 1M; write 100M"),
    ("coordinator --policy balancd", 2, "--policy: 'balancd': did you mean 'balanced'?"),
    ("up --local --agents 0", 2, "--agents 0: use 1 to 1000"),
    ("up --local --node-ram lots", 2, "--node-ram: 'lots': not a size"),
    ("scale 0 --local", 2, "AGENTS: 0 is out of range; use 1 to 1000"),
    ("chaos {bad.toml} --local", 2, "bad.toml: not TOML"),
    ("chaos {plan.toml} --local", 2, "faults[0].kind: 'nosuch': use one of"),
    ("sim --seeds 0", 2, "--seeds: 0 is out of range; use 1 or more"),
    ("sim --trace {x}", 2, "--trace needs --seed"),
    # The program itself.
    ("comapre", 2, "unknown command 'comapre'; did you mean 'compare'?"),
    ("fleet nods", 2, "unknown command 'nods'; did you mean 'nodes'?"),
    ("compare --repot x", 2, "no such option --repot; did you mean --report?"),
    ("config set nosuch x", 2, "KEY: unknown key 'nosuch'"),
    ("config use-context nosuch", 2, "unknown context 'nosuch'"),
    ("completion tcsh", 2, "'tcsh': "),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the cases."""
    made = tmp_path_factory.mktemp("wrong")
    for name, data in FILES.items():
        (made / name).write_bytes(data)
    return made


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration and no clusters but those of the test."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))


@pytest.mark.parametrize(("line", "status", "said"), CASES, ids=[line for line, _, _ in CASES])
def test_wrong_input_is_one_line(line, status, said, folder, capsys):
    words = [
        str(folder / word[1:-1]) if word.startswith("{") else word for word in shlex.split(line)
    ]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    found: object
    try:
        found = main(words)
    except SystemExit as end:  # agents and coordinators are programs of their own
        found = end.code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("bpfleet: ")
    assert said in captured.err
    assert found == status
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
