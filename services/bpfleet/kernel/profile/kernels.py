"""A known kernel as it is written down: its place among the releases, its build, and what it is good for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bpfleet.kernel.profile.model import KernelProfile, Provenance, StructSizes
from bpfleet.kernel.profile.rows import OPTIONS, flags, map_types_of


class Use(StrEnum):
    """What takes a kernel by default."""

    COMPARE = "compare"
    CLUSTER = "up"
    SIZE = "size"
    INCIDENT = "incident"
    SIMULATION = "sim"
    REPLAY = "replay"  # of recordings that are said to hold on every kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBuild:
    """A row of the known kernels.

    ``version`` is its place upstream, with the number of the stable release: it decides which changes it has;
    ``distribution`` (``el9.6``) where those of a distribution decide. ``build`` are options that are not as usual;
    ``other`` fields of its profile that no release has. ``compared_as`` are the variants that a comparison takes too.
    """

    name: str
    version: str
    provenance: Provenance
    source: str
    structs: StructSizes
    release: str = ""
    distribution: str = ""
    build: Mapping[str, int | bool] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)  # Any: the type is the field's
    uses: frozenset[Use] = frozenset()
    compared_as: tuple[str, ...] = ()

    def profile(self) -> KernelProfile:
        """What the rows make of it."""
        values = {flag.name: flag.value(self.version, self.distribution) for flag in flags()}
        values |= {option.name: option.usual for option in OPTIONS}
        values |= {**self.build, **self.other}
        return KernelProfile(
            name=self.name,
            release=self.release or self.version,
            provenance=self.provenance,
            source=self.source,
            structs=self.structs,
            map_types=map_types_of(self.version, self.distribution),
            **values,
        )
