"""A file that cannot be read as TOML or JSON is named in one line, whatever is wrong with it."""

from pathlib import Path

import pytest

from bpfleet.cli.main import main

DIGITS = "9" * 200_000
DEEP = 100_000
TOML = {
    "digits": f"a = {DIGITS}",
    "nested": f"a = {'[' * DEEP}{']' * DEEP}",
    "dotted": f"a{'.a' * DEEP} = 1",
    "not TOML": "a = = 1",
}
JSON = {
    "digits": f'[{{"type":"hash","max_entries":{DIGITS}}}]',
    "nested": "[" * DEEP + "]" * DEEP,
    "not JSON": '[{"type":',
}
TOML_READERS = (
    ("compare", "--scenario"),
    ("compare", "--limits"),
    ("size", "hash", "--key", "4", "--value", "4", "--entries", "4", "--kernel"),
    ("chaos",),
    ("fleet", "apply"),
    ("up", "--local", "--kernel"),
)
JSON_READERS = (
    ("size", "--inventory"),
    ("compare", "--to", "6.12"),
    ("charges",),
    ("oracle", "check"),
)


CASES = [
    *((reader, "wrong.toml", wrong, TOML[wrong]) for reader in TOML_READERS for wrong in TOML),
    *((reader, "wrong.json", wrong, JSON[wrong]) for reader in JSON_READERS for wrong in JSON),
]


@pytest.mark.parametrize(
    ("reader", "name", "text"),
    [
        pytest.param(reader, name, text, id=f"{' '.join(reader[:2])}-{wrong}")
        for reader, name, wrong, text in CASES
    ],
)
def test_a_file_that_cannot_be_read_is_named(reader, name, text, tmp_path: Path, capsys) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert main([*reader, str(file)]) == 2
    told = "".join(capsys.readouterr())
    assert name in told
    assert "set_int_max_str_digits" not in told
    assert len(told) < 1_000
