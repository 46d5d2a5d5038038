"""How good the configs are that tuners find: tasks, tuners, a simulation and the scoring."""
