"""Runs workload replicas on an emulated kernel, as a container runtime and the applications in it
would.
"""

from bpfleet.runtime.replica import Outcome, ReplicaRun
from bpfleet.runtime.supervisor import Supervisor

__all__ = ["Outcome", "ReplicaRun", "Supervisor"]
