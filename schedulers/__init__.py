"""The schedulers: each cuts trials short in its own way, behind one protocol.

The algorithms are loaded by name through ``raytune_hpo.plugins``.
"""

from raytune_hpo.schedulers.base import Decision, Drop, Fork, Move, Resume, Scheduler

__all__ = ["Decision", "Drop", "Fork", "Move", "Resume", "Scheduler"]
