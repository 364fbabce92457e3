"""The kernel a capture was taken on."""

from dataclasses import replace

import msgspec

from bpfleet.captures.document import BtfFacts, Document, Host
from bpfleet.kernel.profile import KernelProfile, nearest_profile, on_machine, profile_named
from bpfleet.kernel.profile_file import profile_from_toml
from bpfleet.oracle.capture import capture_btf
from bpfleet.oracle.vmlinux_btf import Struct, Vmlinux

__all__ = ["KnownKernels", "own_kernel", "own_kernel_and_text"]

# Profiles by what decides them: hosts of one kernel share one.
KnownKernels = dict[tuple[str, str, tuple[str, int], bytes], KernelProfile]


def own_kernel_and_text(document: Document) -> tuple[KernelProfile, str]:
    """The kernel of a document, and the profile file that tells it where a name does not."""
    host = document.host
    if "profile" in host.distribution or document.btf is None:
        return own_kernel(document, {}), host.distribution.get("profile_file", "")
    text = _captured_text(document.btf, host)
    return profile_from_toml(text), text


def own_kernel(document: Document, known: KnownKernels) -> KernelProfile:
    """The kernel a document was taken on: the nearest known one, with the sizes and changes its BTF shows."""
    host = document.host
    if "profile" in host.distribution:
        if host.distribution.get("profile_file"):
            return profile_from_toml(host.distribution["profile_file"])
        return profile_named(host.distribution["profile"])  # an emulated node
    option = host.boot_options.get("cgroup.memory", "")
    machine = (host.machine, host.page_size)
    btf = b"" if document.btf is None else msgspec.json.encode(document.btf)
    key = (host.release, option, machine, btf)
    if key not in known:
        base = nearest_profile(host.release)
        if document.btf is not None:
            base = profile_from_toml(_captured_text(document.btf, host))
        if "nobpf" in option.split(","):
            variant = profile_named(f"{nearest_profile(host.release).name}:nobpf")
            base = replace(base, payer=variant.payer)
        known[key] = on_machine(base, *machine)
    return known[key]


def _captured_text(facts: BtfFacts, host: Host) -> str:
    machine, page = host.machine, host.page_size
    return capture_btf(_vmlinux(facts), host.release, machine=machine, page_bytes=page)


def _vmlinux(facts: BtfFacts) -> Vmlinux:
    structs = {name: Struct(size) for name, size in facts.structs.items()}
    for path, length in facts.members.items():
        name, _, member = path.partition(".")
        structs.setdefault(name, Struct(0)).members[member] = length
    return Vmlinux(structs, dict.fromkeys(facts.map_types, 0))
