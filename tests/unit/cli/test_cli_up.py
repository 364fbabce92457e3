"""``bpfleet up`` refuses what cannot be before it asks any engine."""

import pytest

from bpfleet.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--models", "5.10,4.19"], "unknown kernel profile '4.19'; known: 5.10"),
        (["--models", ","], "--models is empty"),
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
