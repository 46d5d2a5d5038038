"""How fast tuners are that stop trials early: tasks, tuners, a simulation and the scoring."""
