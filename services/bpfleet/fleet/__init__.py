"""The fleet: nodes, workloads, replicas, placement and every rule about them. Pure: no I/O, no clock."""
