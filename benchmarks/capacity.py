"""What a node, a lease and a write cost: the figures behind the capacity guide in docs/operating.md.

    python benchmarks/capacity.py --nodes 1000,10000,50000

starts clusters of local processes of those sizes one after the other, looks at their memory and CPU
time from /proc, and prints one row each. CPU is the share of one core over the idle seconds, so a
busy machine changes it little.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from bpfleet.client.fleet import FleetClient
from bpfleet.client.session import Session
from bpfleet.launcher.cluster import down, ps, up
from bpfleet.launcher.engine import Instance
from bpfleet.launcher.process import ProcessEngine
from bpfleet.launcher.spec import ClusterSpec, Role
from bpfleet.v1 import rlimit_pb2, workload_pb2

NODES_PER_AGENT = 10_000
CLUSTER = "capacity"


def main() -> None:
    """Measure every size that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nodes", default="1000,10000,50000", help="sizes of the fleet")
    parser.add_argument("--idle-seconds", type=float, default=20.0, help="time to look at CPU")
    parser.add_argument("--writes", type=int, default=200, help="workloads created at each size")
    parser.add_argument("--api-port", type=int, default=27_070, help="first of the ports used")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    for size in options.nodes.split(","):
        row = measure(int(size), options)
        rows.append(row)
        if not options.json:
            print("  ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=2)


def measure(nodes: int, options: argparse.Namespace) -> dict[str, float]:
    """One fleet from nothing to gone."""
    agents = -(-nodes // NODES_PER_AGENT)
    spec = ClusterSpec(
        name=CLUSTER,
        agents=agents,
        nodes_per_agent=nodes // agents,
        models=("6.12",),
        workers=0,
        api_port=options.api_port,
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = ProcessEngine(Path(folder))
        began = time.monotonic()
        try:
            up(engine, spec)
            registered = wait_registered(spec)
            return {
                "nodes": nodes,
                "agents": agents,
                "ready_s": round(registered - began, 1),
            } | look(ps(engine, CLUSTER), spec, options)
        finally:
            down(engine, CLUSTER)


def wait_registered(spec: ClusterSpec) -> float:
    """The moment at which the coordinator knows every node."""
    wanted = spec.agents * spec.nodes_per_agent
    with Session(f"127.0.0.1:{spec.api_port}") as session:
        while FleetClient(session).status().ready_node_count < wanted:
            time.sleep(0.1)
    return time.monotonic()


def look(
    instances: list[Instance], spec: ClusterSpec, options: argparse.Namespace
) -> dict[str, float]:
    """Memory now, CPU over the idle time, then the rate of writes."""
    by_role = {
        role: [pid_of(each) for each in instances if each.role is role]
        for role in (Role.AGENT, Role.COORDINATOR, Role.REDIS)
    }
    before = {role: cpu_seconds(pids) for role, pids in by_role.items()}
    time.sleep(options.idle_seconds)
    found: dict[str, float] = {}
    for role, pids in by_role.items():
        used = (cpu_seconds(pids) - before[role]) / options.idle_seconds
        found[f"{role}_mib"] = round(sum(map(rss_mib, pids)), 1)
        found[f"{role}_cpu_percent"] = round(100 * used, 2)
    (redis,) = by_role[Role.REDIS]
    before_mib = rss_mib(redis)
    found["writes_per_s"] = write_rate(spec, options.writes)
    found["redis_kib_per_workload"] = round(
        (rss_mib(redis) - before_mib) * 1024 / options.writes, 1
    )
    return found


def write_rate(spec: ClusterSpec, writes: int) -> float:
    """Workloads of one replica created in a second, one after the other, each synced by Redis."""
    with Session(f"127.0.0.1:{spec.api_port}") as session:
        fleet = FleetClient(session)
        unlimited = rlimit_pb2.RlimitValue(unlimited=True)
        wanted = workload_pb2.WorkloadSpec(replicas=1, application="katran", memlock=unlimited)
        began = time.monotonic()
        for number in range(writes):
            wanted.name = f"capacity-{number}"
            fleet.create_workload(wanted)
        return round(writes / (time.monotonic() - began), 1)


def pid_of(instance: Instance) -> int:
    return int(instance.detail.removeprefix("pid "))


def cpu_seconds(pids: list[int]) -> float:
    """User and system time from /proc/PID/stat."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    """VmRSS from /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
