"""Runs on Kubernetes: what KubeRay is to be told, as plain objects."""
