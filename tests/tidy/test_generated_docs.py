"""Documents that are made from the code are in step with it."""

import shutil
from pathlib import Path

from bpfleet.oracle.docs import documents, main

DOCS = Path(__file__).parents[2] / "docs"


def test_generated_documents_are_in_step():
    for name, text in documents(DOCS).items():
        path = DOCS / name
        assert path.read_text() == text, f"{name}: run python -m bpfleet.oracle.docs --write"


def test_check_notices_a_stale_document(tmp_path, capsys):
    shutil.copy(DOCS / "api.md", tmp_path)
    assert main(["--write"], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "fidelity.md").write_text("old")
    assert main(["--check"], tmp_path) == 1
    assert "fidelity.md is out of step" in capsys.readouterr().err
    assert main([], tmp_path) == 2
