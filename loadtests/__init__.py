"""Traffic, and what it measured: arrival schedules, the Locust fleet, verdicts."""
