"""Where an experiment runs: the launcher protocol, this machine, and KubeRay."""
