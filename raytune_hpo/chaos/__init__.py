"""Faults on purpose: what a run has to stand, and whether it did."""
