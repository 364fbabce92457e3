"""The models of a comparison: kernels by name, and ``own``, which is what each node pool of the scenario has."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bpfleet.kernel.profile import KernelProfile
from bpfleet.runtime.profiles import profile_from
from bpfleet.workload.scenario import NodeGroup, Scenario

__all__ = ["OWN", "kernel_of", "kernels_of", "known_by", "model_kind", "profiles_on"]

OWN: Final = "own"
_MIXED: Final = "mixed"


def kernel_of(model: str, kernel: str) -> str:
    """The kernel that nodes which have ``kernel`` run under ``model``."""
    return kernel if model == OWN else model


def profiles_on(models: Iterable[str], kernel: str) -> dict[str, KernelProfile]:
    """The profiles of nodes which have ``kernel``, by model."""
    return {model: profile_from(kernel_of(model, kernel)) for model in models}


def kernels_of(scenario: Scenario, models: Sequence[str]) -> dict[str, dict[str, KernelProfile]]:
    """For every model its profiles by node pool.

    Raises ``ValueError`` for an unknown or repeated model, or where ``own`` is asked for and a pool says no kernel.
    """
    if not models or len(set(models)) != len(models):
        raise ValueError(f"models = {','.join(models)}: name each model once, at least one")
    pools = [pool for pool in scenario.nodes if pool.count] or list(scenario.nodes)
    if OWN in models:
        _check_own(scenario.nodes)
    return {
        model: {pool.name: profile_from(kernel_of(model, pool.kernel)) for pool in pools}
        for model in models
    }


def _check_own(pools: Iterable[NodeGroup]) -> None:
    for index, pool in enumerate(pools):
        if pool.count and not pool.kernel:
            raise ValueError(
                f"nodes[{index}].kernel: missing for the model {OWN!r}; say which kernel pool {pool.name} has"
            )


def model_kind(profiles: Mapping[str, KernelProfile]) -> str:
    """How books are kept: rlimit, memcg or none; ``mixed`` where pools differ."""
    kinds = {str(profile.model) for profile in profiles.values()}
    return kinds.pop() if len(kinds) == 1 else _MIXED


def known_by(profiles: Mapping[str, KernelProfile]) -> str:
    """How sure what is said is: of one kernel, or of each pool's."""
    told = {profile.name: profile.known_by for profile in profiles.values()}
    if len(told) == 1:
        return next(iter(told.values()))
    pools = {pool: f"{pool} {p.name} {p.known_by}" for pool, p in profiles.items()}
    return ", ".join(pools.values())
