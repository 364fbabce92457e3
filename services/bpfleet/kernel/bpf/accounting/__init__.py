"""Accountants for BPF memory: per-user rlimit, memory cgroup, nobody."""
