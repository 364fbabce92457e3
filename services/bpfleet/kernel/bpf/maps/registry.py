"""Which class is which map type."""

from typing import Final

from bpfleet.abi.bpf import MapType
from bpfleet.kernel.bpf.maps.arena import ArenaMap
from bpfleet.kernel.bpf.maps.array import ArrayMap
from bpfleet.kernel.bpf.maps.base import BpfMap
from bpfleet.kernel.bpf.maps.bloom_filter import BloomFilterMap
from bpfleet.kernel.bpf.maps.cgroup_storage import CgroupStorageMap, PercpuCgroupStorageMap
from bpfleet.kernel.bpf.maps.cpumap import CpuMap
from bpfleet.kernel.bpf.maps.devmap import DevMap, DevMapHash
from bpfleet.kernel.bpf.maps.fd_array import CgroupArrayMap, PerfEventArrayMap, ProgArrayMap
from bpfleet.kernel.bpf.maps.hash import HashMap
from bpfleet.kernel.bpf.maps.insn_array import InsnArrayMap
from bpfleet.kernel.bpf.maps.local_storage import (
    CgroupLocalStorage,
    InodeStorage,
    SkStorage,
    TaskStorage,
)
from bpfleet.kernel.bpf.maps.lpm_trie import LpmTrieMap
from bpfleet.kernel.bpf.maps.lru_hash import LruHashMap, LruPercpuHashMap
from bpfleet.kernel.bpf.maps.map_in_map import ArrayOfMaps, HashOfMaps
from bpfleet.kernel.bpf.maps.percpu_array import PercpuArrayMap
from bpfleet.kernel.bpf.maps.percpu_hash import PercpuHashMap
from bpfleet.kernel.bpf.maps.queue_stack import QueueStackMap
from bpfleet.kernel.bpf.maps.reuseport_array import ReuseportArray
from bpfleet.kernel.bpf.maps.ringbuf import RingbufMap
from bpfleet.kernel.bpf.maps.sock_map import SockHash, SockMap
from bpfleet.kernel.bpf.maps.stack_trace import StackTraceMap
from bpfleet.kernel.bpf.maps.struct_ops import StructOpsMap
from bpfleet.kernel.bpf.maps.xskmap import XskMap

MAP_CLASSES: Final[dict[MapType, type[BpfMap]]] = {
    MapType.HASH: HashMap,
    MapType.ARRAY: ArrayMap,
    MapType.PROG_ARRAY: ProgArrayMap,
    MapType.PERF_EVENT_ARRAY: PerfEventArrayMap,
    MapType.PERCPU_HASH: PercpuHashMap,
    MapType.PERCPU_ARRAY: PercpuArrayMap,
    MapType.STACK_TRACE: StackTraceMap,
    MapType.CGROUP_ARRAY: CgroupArrayMap,
    MapType.LRU_HASH: LruHashMap,
    MapType.LRU_PERCPU_HASH: LruPercpuHashMap,
    MapType.LPM_TRIE: LpmTrieMap,
    MapType.ARRAY_OF_MAPS: ArrayOfMaps,
    MapType.HASH_OF_MAPS: HashOfMaps,
    MapType.DEVMAP: DevMap,
    MapType.SOCKMAP: SockMap,
    MapType.CPUMAP: CpuMap,
    MapType.XSKMAP: XskMap,
    MapType.SOCKHASH: SockHash,
    MapType.CGROUP_STORAGE: CgroupStorageMap,
    MapType.REUSEPORT_SOCKARRAY: ReuseportArray,
    MapType.PERCPU_CGROUP_STORAGE: PercpuCgroupStorageMap,
    MapType.QUEUE: QueueStackMap,
    MapType.STACK: QueueStackMap,
    MapType.SK_STORAGE: SkStorage,
    MapType.DEVMAP_HASH: DevMapHash,
    MapType.STRUCT_OPS: StructOpsMap,
    MapType.RINGBUF: RingbufMap,
    MapType.INODE_STORAGE: InodeStorage,
    MapType.TASK_STORAGE: TaskStorage,
    MapType.BLOOM_FILTER: BloomFilterMap,
    MapType.USER_RINGBUF: RingbufMap,
    MapType.CGRP_STORAGE: CgroupLocalStorage,
    MapType.ARENA: ArenaMap,
    MapType.INSN_ARRAY: InsnArrayMap,
}
