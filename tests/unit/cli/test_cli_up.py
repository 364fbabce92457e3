"""``bpfleet up`` refuses what cannot be before it asks any engine."""

from pathlib import Path

import pytest

from bpfleet.cli.main import main
from bpfleet.cli.up import command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--kernel", "5.10,4.19"], "unknown kernel '4.19'; nearest is 5.4"),
        (["--kernel", ","], "--kernel is empty"),
        (["--node-ram", "lots"], "'lots'"),
        (["--agents", "0"], "--agents 0: use 1 to 1000"),
        (["--memory", "1M"], "at least 32M"),
        (["--name", "A_B"], "lower-case letters"),
    ],
)
def test_what_cannot_be_is_one_line_and_starts_nothing(
    arguments: list[str],
    complaint: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(home))
    assert main(["up", "--local", *arguments]) != 0
    assert complaint in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_the_text_of_a_profile_file_goes_to_the_agents(tmp_path: Path) -> None:
    text = 'name = "host"\nrelease = "6.12.9"\nbase = "6.12"\nmap_types = ["hash", "array"]\n'
    (tmp_path / "host.toml").write_text(text)
    context = command.make_context("up", ["--kernel", f"5.10,{tmp_path}/host.toml"])
    assert context.params["models"] == ("5.10", text)
