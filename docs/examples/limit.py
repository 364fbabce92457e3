"""Fills a map until the kernel says no, and prints what it said and why.

python -m bpfleet.node_agent --kernel 6.12        # in another terminal; try 5.10 as well
python docs/examples/limit.py [HOST:PORT]
"""

import sys

from bpfleet.client.bpf import AgentClient
from bpfleet.client.session import Session, Verdict

with Session(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7071") as session:
    client = AgentClient(session)
    node = client.node(next(client.list_nodes()).name)
    cgroup = node.create_cgroup("/demo", {"memory.max": "1M"})
    process = node.create_process(cgroup="/demo", memlock_bytes=8 << 20)
    try:
        flows = process.create_map(
            "hash", key_size=4, value_size=512, max_entries=4096, map_flags=1, name="flows"
        )
        print(f"created: charged {flows.receipt.charged_bytes} bytes to {flows.receipt.charged_to}")
        for number in range(5000):
            flows.update(number.to_bytes(4, "little"), bytes(512))
    except Verdict as verdict:
        print(f"{verdict.call}: {verdict.errno.name} ({verdict.errno}), because {verdict.reason}")
        print(verdict.message)
    finally:
        process.kill()
        cgroup.delete()
