"""One million operations under four models, call by call beside each other, on one node.

    python benchmarks/trace.py                 # 1,000,000 operations
    python benchmarks/trace.py --operations 50000 --json

Prints seconds and microseconds per operation and model. The operations are drawn once and issued under every model, as
``bpfleet compare`` does it; six map types share them.
"""

import argparse
import json
import sys
import time

from bpfleet.kernel import profile_named
from bpfleet.report.lockstep import run_node
from bpfleet.report.placing import place
from bpfleet.workload.scenario import Scenario, scenario_from_toml

MODELS = ("5.10", "5.11", "6.1", "6.12")
OPERATIONS_PER_STEP = 1000
SCENARIO = """
name = "trace"
seed = 1
steps = {steps}
[[nodes]]
name = "node"
possible_cpus = 16
ram_bytes = "64G"
[[workloads]]
name = "churn"
memlock_bytes = "unlimited"
[workloads.inventory]
name = "churn"
maps = [
  {{ name = "hash", map_type = "hash", key_size = 16, value_size = 64, max_entries = 100000 }},
  {{ name = "sparse", map_type = "hash", key_size = 16, value_size = 64, max_entries = 100000, map_flags = 1 }},
  {{ name = "lru", map_type = "lru_hash", key_size = 16, value_size = 64, max_entries = 65536 }},
  {{ name = "trie", map_type = "lpm_trie", key_size = 8, value_size = 8, max_entries = 65536, map_flags = 1 }},
  {{ name = "array", map_type = "array", key_size = 4, value_size = 64, max_entries = 65536 }},
  {{ name = "percpu", map_type = "percpu_hash", key_size = 8, value_size = 16, max_entries = 10000 }},
]
churn = {{ operations_per_step = {per_step} }}
"""


def scenario(operations: int) -> Scenario:
    steps = max(1, operations // OPERATIONS_PER_STEP)
    text = SCENARIO.format(steps=steps, per_step=OPERATIONS_PER_STEP)
    return scenario_from_toml(text, "trace")


def measure(operations: int) -> dict[str, float | int]:
    """Runs the trace once."""
    one = scenario(operations)
    plan = place(one).nodes[0]
    profiles = {model: profile_named(model) for model in MODELS}
    started, used = time.perf_counter(), time.process_time()
    result = run_node(one, plan, profiles)
    seconds = time.perf_counter() - started
    issued = sum(replica.operations for replica in result.models[MODELS[0]].replicas)
    return {
        "operations": issued,
        "models": len(MODELS),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
        "microseconds_per_operation_and_model": round(seconds / issued / len(MODELS) * 1e6, 2),
        "divergences": len(result.divergences),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.operations)
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name.replace('_', ' '):40} {value:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
