"""Where a replica is in its life: the one list of phases, for everybody who speaks of replicas."""

from enum import StrEnum

__all__ = ["Phase"]


class Phase(StrEnum):
    """The phases of a replica. ``runtime.lifecycle`` says which follows which.

    An agent knows a replica from ASSIGNED on; PENDING, BACK_OFF and STOPPING are known only to whoever decides about
    it: the coordinator, or ``compare``'s supervisor.
    """

    # Wanted, on no node yet.
    PENDING = "PENDING"
    # Has a node and is to start there, or is starting.
    ASSIGNED = "ASSIGNED"
    RUNNING = "RUNNING"
    # Ended, and waits on its node for the next start.
    BACK_OFF = "BACK_OFF"
    # Told to stop; it may still hold memory.
    STOPPING = "STOPPING"
    # Stopped on request and gone.
    STOPPED = "STOPPED"
    # Ended with an error for good.
    FAILED = "FAILED"
    # Ended with status 0 for good.
    SUCCEEDED = "SUCCEEDED"
