"""What the kernel counted during a run on a host that does nothing else."""

from __future__ import annotations

from loadtests.monitor import Window

QUIET = Window(
    wall_s=2.1,
    replica_s=1.0,
    ingress_s=0.1,
    others_on_replica_cores=0.01,
    platform_busy=0.5,
    steal=0.0,
    periods=0,
    throttled_periods=0,
    throttled_s=0.0,
    peak_memory_bytes=1 << 28,
    fallback_sessions=0,
    replica_changed=False,
)
