"""A small scenario in which every model refuses something else."""

from bpfleet.workload.scenario import Scenario, scenario_from_toml

TEXT = """
name = "small-fleet"
title = "Three workloads on three nodes"
seed = 3
steps = 8
step_ns = 5_000_000_000

[[nodes]]
name = "small"
count = 2
possible_cpus = 4
ram_bytes = "8G"
labels = { tier = "small" }

[[nodes]]
name = "large"
count = 1
possible_cpus = 64
ram_bytes = "64G"
labels = { tier = "large" }

# Fits nowhere under the rlimit model: 64 KiB is the default of a login.
[[workloads]]
name = "bpftrace"
application = "bpftrace"
replicas = 2
uid = 1002
capabilities = ["bpf", "perfmon"]
memory_request_bytes = "128M"
memory_limit_bytes = "512M"
memlock_bytes = "64K"

# One ring buffer for two CPUs: the limit is enough for 4 CPUs, not for 64.
[[workloads]]
name = "falco"
application = "falco"
per_node = true
memory_request_bytes = "128M"
memory_limit_bytes = "320M"
memlock_bytes = "unlimited"

# Heap and maps together pass the limit when the heap is at its peak.
[[workloads]]
name = "probe"
application = "datadog-npm"
per_node = true
memory_request_bytes = "128M"
memory_limit_bytes = "190M"
memlock_bytes = "unlimited"
churn = { start_share = 0.5, ramp_steps = 4, operations_per_step = 20 }
node_selector = { tier = "small" }

[[events]]
step = 6
workload = "falco"
"""


def small_scenario() -> Scenario:
    """The scenario, read anew."""
    return scenario_from_toml(TEXT, "small-fleet.toml")
