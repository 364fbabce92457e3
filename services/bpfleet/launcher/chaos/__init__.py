"""Faults by plan on a running cluster, a witness that keeps writing, and the checks afterwards."""
