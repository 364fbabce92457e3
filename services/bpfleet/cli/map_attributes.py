"""Options that describe a map: its type and flags by any of their names, its sizes with units."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from bpfleet.abi import bpf
from bpfleet.abi.bpf import MapType
from bpfleet.abi.limits import U32_MAX
from bpfleet.near import unknown
from bpfleet.workload.quantity import parse_bytes

__all__ = ["FLAGS", "MapFlags", "MapTypeName", "Number", "map_options"]

# click's decorators take and return functions of any kind.
Command = TypeVar("Command", bound=Callable[..., Any])

TYPES: Final = {each.name.lower(): each for each in MapType if each is not MapType.UNSPEC}
FLAGS: Final = {
    name.removeprefix("F_").lower(): getattr(bpf, name)
    for name in dir(bpf)
    if name.startswith("F_")
}


class MapTypeName(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on only
    """A type of map as bpftool spells it (``lru_hash``) or as the kernel does (``BPF_MAP_TYPE_LRU_HASH``)."""

    name = "TYPE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> MapType:
        """The type by name."""
        if isinstance(value, MapType):
            return value
        word = str(value).lower().replace("-", "_").removeprefix("bpf_map_type_")
        found = TYPES.get(word)
        if found is None:
            self.fail(
                unknown(
                    "map type",
                    word,
                    TYPES,
                    more="use bpftool's word, such as hash or lru_hash",
                ),
                param,
                ctx,
            )
        return found

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The types as bpftool spells them."""
        return [CompletionItem(name) for name in TYPES if name.startswith(incomplete)]


class MapFlags(click.ParamType):  # type: ignore[type-arg]  # as above
    """map_flags as a number (``0x1``) or by name (``no_prealloc``, ``BPF_F_NO_PREALLOC|BPF_F_RDONLY``)."""

    name = "FLAGS"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """All flags as one number."""
        if isinstance(value, int):
            return value
        flags = 0
        for word in str(value).replace("|", ",").split(","):
            flags |= self._one(word.strip(), param, ctx)
        return flags

    def _one(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        name = word.lower().removeprefix("bpf_f_")
        if name in FLAGS:
            flag: int = FLAGS[name]
            return flag
        try:
            number = int(word, 0)
        except ValueError:
            self.fail(
                unknown("flag", word, FLAGS, more="use 0x1 or a name such as no_prealloc"),
                param,
                ctx,
            )
        if not 0 <= number <= U32_MAX:
            self.fail(f"{word}: out of range; use 0 to 0x{U32_MAX:x}", param, ctx)
        return number


class Number(click.ParamType):  # type: ignore[type-arg]  # as above
    """A number of 32 bits, also with a unit: ``64K`` is 65,536."""

    name = "NUMBER"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """The number itself."""
        if isinstance(value, int):
            return value
        try:
            number = parse_bytes(str(value))
        except ValueError:
            self.fail(f"{value!r}: write a number, plain or with K, M or G", param, ctx)
        if number > U32_MAX:
            self.fail(f"{value}: out of range; use at most {U32_MAX:,}", param, ctx)
        return number


def map_options(command: Command) -> Command:
    """Adds ``--key``, ``--value``, ``--entries`` and ``--flags``."""
    for option in (
        click.option(
            "--flags",
            type=MapFlags(),
            default="0",
            show_default=True,
            help="map_flags: 0x1, or names such as no_prealloc.",
        ),
        click.option(
            "--entries", type=Number(), default=1024, show_default=True, help="max_entries."
        ),
        click.option(
            "--value", type=Number(), default=8, show_default=True, help="Bytes of a value."
        ),
        click.option("--key", type=Number(), default=4, show_default=True, help="Bytes of a key."),
    ):
        command = option(command)
    return command
