"""Names replaced by pseudonyms, alike for all documents of one key; numbers stay. Pure."""

import hashlib
import hmac
import re
from typing import Final, final

from msgspec.structs import replace

from bpfleet.captures.collect import identify
from bpfleet.captures.document import Cgroup, Document, Payer

__all__ = ["anonymised"]

_LENGTH: Final = 10
_POD_HEX: Final = re.compile(
    r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32,64}"
)
# Words of cgroup paths and of bpffs that say what something is, not whose.
_STRUCTURE: Final = re.compile(
    r"kubepods(-besteffort|-burstable)?(\.slice)?|besteffort|burstable|docker|system\.slice"
    r"|user\.slice|machine\.slice"
    r"|init\.scope|sys|fs|bpf|tc|globals|(-?\.(mount|slice|scope|service))"
)
_SUFFIX: Final = re.compile(r"\.(service|scope|slice|socket|mount|swap)$")
_PREFIX: Final = re.compile(
    r"^(cri-containerd-|crio-|docker-|libpod-|kubepods(-besteffort|-burstable)?-pod|pod)"
)


def anonymised(document: Document, key: bytes) -> Document:
    """``document`` with every name replaced."""
    names = _Names(key)
    return replace(
        document,
        host=replace(document.host, name=names.of("host", document.host.name)),
        maps=tuple(
            replace(
                each,
                name=names.of("map", each.name),
                pinned=tuple(map(names.path, each.pinned)),
                payer=names.payer(each.payer),
            )
            for each in document.maps
        ),
        programs=tuple(
            replace(
                each,
                name=names.of("prog", each.name),
                tag="",
                pinned=tuple(map(names.path, each.pinned)),
                payer=names.payer(each.payer),
            )
            for each in document.programs
        ),
        links=tuple(
            replace(each, pinned=tuple(map(names.path, each.pinned))) for each in document.links
        ),
        processes=tuple(
            replace(each, comm=names.of("proc", each.comm), cgroup=names.path(each.cgroup))
            for each in document.processes
        ),
        cgroups=tuple(names.cgroup(each) for each in document.cgroups),
    )


@final
class _Names:
    def __init__(self, key: bytes) -> None:
        self._key: Final = key

    def _digest(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def of(self, kind: str, name: str) -> str:
        """A pseudonym of at most 15 characters, as names of maps and processes have them."""
        return f"{kind}-{self._digest(name)[:_LENGTH]}"[:15].replace("-", "_") if name else ""

    def path(self, path: str) -> str:
        """A path part by part; parts that only tell the kind of a cgroup stay."""
        return "/".join(self._part(part) for part in path.split("/"))

    def _part(self, part: str) -> str:
        if not part or _STRUCTURE.fullmatch(part):
            return part
        prefix, suffix = _PREFIX.match(part), _SUFFIX.search(part)
        head, tail = prefix[0] if prefix else "", suffix[0] if suffix else ""
        middle = part[len(head) : len(part) - len(tail)]
        number = _POD_HEX.fullmatch(middle)
        if number is None:
            return head + self._digest(middle)[:_LENGTH] + tail
        digits = iter(self._digest(middle))
        return head + "".join(c if c in "-_" else next(digits) for c in middle) + tail

    def payer(self, payer: Payer) -> Payer:
        """A payer with its path and name replaced alike."""
        path = self.path(payer.path)
        return replace(payer, path=path, name=self._part(payer.name) if payer.name else "")

    def cgroup(self, cgroup: Cgroup) -> Cgroup:
        """A cgroup; what it is follows from its new path."""
        path = self.path(cgroup.path)
        what = {"kind": "removed", "name": path} if cgroup.removed else identify(path)
        return replace(cgroup, path=path, what=what)
