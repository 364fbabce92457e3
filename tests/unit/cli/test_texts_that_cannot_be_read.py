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
    ("size", "hash", "--key", "4", "--value", "4", "--entries", "4", "--profile"),
    ("chaos",),
    ("fleet", "apply"),
    ("up", "--local", "--models"),
)
JSON_READERS = (
    ("size", "--inventory"),
    ("compare", "--to", "6.12"),
    ("charges",),
    ("oracle", "check"),
)


def _refusal(arguments: tuple[str, ...], file: Path, capsys) -> str:
    assert main([*arguments, str(file)]) == 2
    told = capsys.readouterr()
    return told.out + told.err


@pytest.mark.parametrize("reader", TOML_READERS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("wrong", TOML)
def test_a_toml_file_that_cannot_be_read_is_named(reader, wrong, tmp_path: Path, capsys) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(TOML[wrong])
    told = _refusal(reader, file, capsys)
    assert "wrong.toml" in told
    assert "set_int_max_str_digits" not in told
    assert len(told) < 1_000


@pytest.mark.parametrize("reader", JSON_READERS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize("wrong", JSON)
def test_a_json_file_that_cannot_be_read_is_named(reader, wrong, tmp_path: Path, capsys) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(JSON[wrong])
    told = _refusal(reader, file, capsys)
    assert "wrong.json" in told
    assert "set_int_max_str_digits" not in told
    assert len(told) < 1_000
