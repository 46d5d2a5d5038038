"""Runs on Kubernetes, carried by KubeRay: one RayJob an experiment."""
