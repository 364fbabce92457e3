"""Transcripts: commands and their exact answers, for a kernel person to read. `pytest --rewrite` writes the answers.

A block is one or more commands, a line of four dashes, and the answers until an empty line. ``#`` starts a comment.
"""

from pathlib import Path

import pytest

from tests.scenarios.interpreter import Interpreter

HERE = Path(__file__).parent
TRANSCRIPTS = sorted(HERE.glob("*.txt"))
RULE = "----"


def replay(text: str) -> str:
    """The transcript with the answers of this emulator."""
    interpreter = Interpreter()
    lines: list[str] = []
    commands: list[str] = []
    answering = False
    for line in text.splitlines():
        if answering:
            if not line.strip():
                answering = False
                lines.append("")
            continue
        lines.append(line)
        if line == RULE:
            for command in commands:
                lines.extend(answer(interpreter, command, alone=len(commands) == 1))
            commands, answering = [], True
        elif line.strip() and not line.startswith("#"):
            commands.append(line)
    assert not commands, f"commands without an answer: {commands}"
    return "\n".join(lines).rstrip("\n") + "\n"


def answer(interpreter: Interpreter, command: str, *, alone: bool) -> list[str]:
    """A command's answer; blank lines of it stand as a dot. "ok" is left out where others answer too."""
    text = interpreter.run(command)
    if text == "ok" and not alone:
        return []
    return [line or "." for line in text.split("\n")]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_transcript_is_what_happens(path: Path, request: pytest.FixtureRequest) -> None:
    recorded = path.read_text(encoding="utf-8")
    played = replay(recorded)
    if request.config.getoption("--rewrite"):
        path.write_text(played, encoding="utf-8")
    else:
        assert played == recorded


def test_a_transcript_with_a_wrong_answer_differs() -> None:
    assert replay("kernel 6.12\n----\n5.10 booted\n") != "kernel 6.12\n----\n5.10 booted\n"
