"""SOCKMAP, SOCKHASH, REUSEPORT_SOCKARRAY: which sockets fit, and that closed ones leave."""

import pytest

from bpfleet.abi.bpf import MapType
from bpfleet.abi.errno import Errno
from bpfleet.kernel.bpf.attr import MapAttr
from tests.kernels import ALL, MEMCG, boot, charged, having, refused, settle

SOCK_MAPS = [MapType.SOCKMAP, MapType.SOCKHASH]


def _key(number):
    return number.to_bytes(4, "little")


def _create(kernel, task, map_type, value=8, entries=4):
    return kernel.bpf.map_create(task, MapAttr(map_type, 4, value, entries)).fd


def _value(fd):
    return fd.to_bytes(8, "little")


@pytest.mark.parametrize("profile", having("sockmap_takes_listeners_and_udp"))
@pytest.mark.parametrize("map_type", SOCK_MAPS)
def test_only_sockets_in_the_right_state_fit(profile, map_type):
    kernel, task = boot(profile)
    fd = _create(kernel, task, map_type)
    profile = kernel.profile
    fits = {
        "tcp_est": True, "tcp_listen": True, "udp_bound": True, "udp_reuse": True,
        "tcp": False, "udp": not profile.sockmap_needs_bound_udp, "xsk": False,
        "unix_pair": profile.sockmap_takes_any_psock,
    }  # fmt: skip
    for kind, ok in fits.items():
        value = _value(kernel.objects.socket(task, kind))
        if ok:
            kernel.bpf.map_update_elem(task, fd, _key(0), value)
            continue
        with refused(Errno.EOPNOTSUPP):
            kernel.bpf.map_update_elem(task, fd, _key(0), value)
    with refused(Errno.ENOTSOCK):
        kernel.bpf.map_update_elem(task, fd, _key(0), _value(fd))
    with refused(Errno.EINVAL):
        kernel.bpf.map_update_elem(task, fd, _key(0), (1 << 31).to_bytes(8, "little"))
    settle(kernel)


@pytest.mark.parametrize("profile", having("sockmap_value_takes_cookie"))
@pytest.mark.parametrize("map_type", SOCK_MAPS)
def test_a_closed_socket_leaves_its_maps(profile, map_type):
    kernel, task = boot(profile)
    maps = [_create(kernel, task, map_type) for _ in range(2)]
    empty = charged(kernel, "map")
    sock = kernel.objects.socket(task, "tcp_est")
    for fd in maps:
        for slot in range(3):
            kernel.bpf.map_update_elem(task, fd, _key(slot), _value(sock))
    cookie = kernel.bpf.map_lookup_elem(task, maps[0], _key(2))
    assert cookie == kernel.bpf.map_lookup_elem(task, maps[1], _key(0)) == (1).to_bytes(8, "little")
    kernel.close(task.pid, sock)
    kernel.run_deferred()
    with refused(Errno.ENOENT):
        kernel.bpf.map_lookup_elem(task, maps[0], _key(2))
    assert charged(kernel, "map") == empty
    settle(kernel)


@pytest.mark.parametrize("map_type", SOCK_MAPS)
def test_four_byte_values_cannot_be_read(map_type):
    kernel, task = boot("6.12")
    fd = _create(kernel, task, map_type, value=4)
    with refused(Errno.ENOSPC):
        kernel.bpf.map_lookup_elem(task, fd, _key(0))


@pytest.mark.parametrize("profile", MEMCG)
def test_sockhash_pays_per_element_sockmap_does_not(profile):
    kernel, task = boot(profile)
    sock = kernel.objects.socket(task, "tcp_est")
    grown = {}
    for map_type in SOCK_MAPS:
        fd = _create(kernel, task, map_type, entries=100)
        before = charged(kernel, "map")["slab"]
        for slot in range(100):
            kernel.bpf.map_update_elem(task, fd, _key(slot), _value(sock))
        grown[map_type] = charged(kernel, "map")["slab"] - before
    assert grown == {MapType.SOCKMAP: 0, MapType.SOCKHASH: 100 * (64 + 8)}
    with refused(Errno.E2BIG):
        kernel.bpf.map_update_elem(task, fd, _key(100), _value(sock))
    kernel.bpf.map_update_elem(task, fd, _key(0), _value(sock))
    settle(kernel)


def test_5_10_sockhash_refuses_4_gib_with_einval():
    kernel, task = boot("5.10")
    kernel.ram.ram_bytes = 1 << 40
    with refused(Errno.EINVAL):
        kernel.bpf.map_create(task, MapAttr(MapType.SOCKHASH, 512, 4, 1 << 23))
    with refused(Errno.E2BIG):
        kernel.bpf.map_create(task, MapAttr(MapType.SOCKHASH, 513, 4, 1))


@pytest.mark.parametrize("profile", ALL)
def test_reuseport_takes_bound_sockets_once(profile):
    kernel, task = boot(profile)
    fd = _create(kernel, task, MapType.REUSEPORT_SOCKARRAY)
    first, second = (kernel.objects.socket(task, "udp_reuse") for _ in range(2))
    update = kernel.bpf.map_update_elem
    update(task, fd, _key(0), _value(first))
    with refused(Errno.EBUSY):
        update(task, fd, _key(1), _value(first))
    for kind, errno in [
        ("udp", Errno.EINVAL),
        ("udp_bound", Errno.EINVAL),
        ("tcp_listen", Errno.EINVAL),
        ("unix_pair", Errno.ENOTSUPP),
        ("xsk", Errno.ENOTSUPP),
    ]:
        with refused(errno):
            update(task, fd, _key(1), _value(kernel.objects.socket(task, kind)))
    update(task, fd, _key(0), _value(second))  # the first is free again
    update(task, fd, _key(1), _value(first))
    kernel.close(task.pid, first)
    with refused(Errno.ENOENT):
        kernel.bpf.map_delete_elem(task, fd, _key(1))
    with refused(Errno.E2BIG):
        kernel.bpf.map_delete_elem(task, fd, _key(4))
    settle(kernel)
