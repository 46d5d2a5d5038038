"""Metrics from what a command prints or writes; one source a file behind one small protocol."""

from raytune_hpo.collect.base import Collector, MetricOptions, make_collector

__all__ = ["Collector", "MetricOptions", "make_collector"]
