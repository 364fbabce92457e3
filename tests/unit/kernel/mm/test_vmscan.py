from bpfleet.kernel.mm.vmscan import effective_protection


def effective(setting: int, *, claims: int, recursive: bool = False, usage: int = 100) -> int:
    return effective_protection(usage, 200, setting, 80, claims, recursive=recursive)


def test_a_claim_within_the_parents_protection_is_honoured() -> None:
    assert effective(50, claims=70) == 50


def test_more_than_is_used_is_not_protected() -> None:
    assert effective(90, claims=80, usage=60) == 60


def test_claims_beyond_the_parents_protection_are_scaled_down() -> None:
    assert effective(80, claims=160) == 40


def test_unclaimed_protection_is_shared_out_by_unprotected_usage() -> None:
    assert effective(20, claims=20, recursive=True) == 20 + 60 * 80 // 180
    assert effective(20, claims=20, recursive=False) == 20
