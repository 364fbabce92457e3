"""The planted faults still fit the code; whether they are noticed is ``make mutants``."""

import pytest

from tests.mutants.run import ROOT, edited, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_planted_and_names_tests_that_exist(mutant):
    for path, text in edited(mutant, ROOT).items():
        assert text != path.read_text("utf-8")
        compile(text, path.name, "exec")
    for test in mutant.tests:
        assert (ROOT / test).exists(), test


def test_every_mutant_has_a_name_of_its_own():
    names = [mutant.name for mutant in mutants()]
    assert len(names) == len(set(names))
