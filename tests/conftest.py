"""What all tests have in common."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
settings.register_profile(
    "untimed", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
)
settings.load_profile("untimed")
