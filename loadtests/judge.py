"""Whether a measurement may be believed: a closed list of faults, each with its figures."""

from __future__ import annotations

from collections.abc import Iterator

from loadtests.laws import little
from loadtests.monitor import Window
from loadtests.records import Fault, FaultCode, LoadRun
from loadtests.summary import LoadResult
from serving.records import Deployment, Grant

MIN_SAMPLES = 20
# A rung of a ladder is limited by the generator when the platform's cores are full
# while the replica still has room.
PLATFORM_FULL = 0.97
REPLICA_FULL = 0.90
# Beyond this share of its core a worker answers late, and the delay looks like the server's.
GENERATOR_FULL = 0.90
# A worker that waits for a CPU in more of the time than this stamps answers late, too.
STARVED_LIMIT = 0.10
# Dispatch may lag by this much, or by this share of the latency that is reported.
LAG_LIMIT_S = 0.002
LAG_SHARE = 0.05
# Silence for this much longer than twice the p99 of all others is no queue, and no slow request.
STALL_S = 0.5
STALL_TIMES = 2
RATE_SHORTFALL = 0.02
# Requests for which the generator had no connection left: their wait is not the server's.
UNCONNECTED_SHARE = 0.001
GRANT_EXCESS = 0.05
OTHERS_LIMIT = 0.02
STEAL_LIMIT = 0.01
# In a container that the replica shares with us: what generator and ingress may take of it, and
# what they may take together with Ray's own processes (about a tenth of a CPU), which a
# deployment in a container would hold as well.
CONTAINER_LIMIT = 0.05
CONTAINER_ALL_LIMIT = 0.15
# Its neighbours are out of sight. They show when the model wants a CPU that it may use, and waits.
WAITED_LIMIT = 0.10
# Of the cores of generator and ingress: what nobody of ours used. Counted in ticks per process.
STRANGERS_LIMIT = 0.10
# The most that NTP slews a clock by in ordinary operation (500 ppm, adjtimex(2)).
SLEW_LIMIT_PPM = 500.0
SUSPENDED_LIMIT_S = 0.001
# The kernel accounts a quota per period and CPUs in ticks of 10 ms; a window cut
# anywhere may hold one period and a few ticks more than its share. Others on the replica's
# cores get the ticks even where cpuacct counts nanoseconds: see docs/design.md, The audit.
_SLACK_S = 0.03
_TICKS_S = 0.02
# Our own CPU time is summed up over some twenty processes, each counted in ticks.
_COUNTED_TICKS = 5


def faults_of(
    run: LoadRun, deployment: Deployment, grant: Grant, result: LoadResult, window: Window
) -> tuple[Fault, ...]:
    """All faults of a run; an empty tuple means it is valid."""
    return tuple(
        Fault(code=code, detail=detail)
        for code, detail in (
            *_wrong_answers(result),
            *_generator(run, result),
            *_platform(grant, deployment, result, window),
            *_dispatch(run, result),
            *_stall(result),
            *_replica(deployment, grant, result, window),
            *_audit(deployment, window),
            *(_container(grant, result, window) if grant.method == "container" else _host(window)),
            *steal_faults(window.steal, "the CPUs of replica and platform"),
            *clock_faults(window.clock_slew_ppm, window.suspended_s),
        )
    )


Found = Iterator[tuple[FaultCode, str]]


def _wrong_answers(result: LoadResult) -> Found:
    if result.ok < MIN_SAMPLES:
        yield FaultCode.TOO_FEW_SAMPLES, f"{result.ok} answers, at least {MIN_SAMPLES} are needed"
    if result.errors:
        parts = ", ".join(f"{n} x {name}" for name, n in sorted(result.errors.items()))
        yield FaultCode.ERRORS, parts
    if result.wrong:
        yield FaultCode.WRONG_ANSWERS, f"{result.wrong} of {result.checked} checked answers differ"
    if result.other_cell:
        yield FaultCode.WRONG_CELL, f"{result.other_cell} answers came from another cell"


def endpoint_faults(run: LoadRun, result: LoadResult) -> tuple[Fault, ...]:
    """Faults of a run against a server that is not ours: those the generator can see."""
    found = (
        *_wrong_answers(result),
        *_generator(run, result),
        *_starved(run, result),
        *_dispatch(run, result),
        *_stall(result),
    )
    return tuple(Fault(code=code, detail=detail) for code, detail in found)


def _generator(run: LoadRun, result: LoadResult) -> Found:
    if result.lost_workers:
        yield (
            FaultCode.WORKER_LOST,
            f"{len(result.lost_workers)} load workers were lost, with {result.lost} requests",
        )
    elif result.stopped_workers:
        yield FaultCode.WORKER_LOST, "a load worker was stopped for a while"
    if result.busiest_worker > GENERATOR_FULL:
        yield (
            FaultCode.GENERATOR_AT_LIMIT,
            f"a generator worker used {result.busiest_worker:.0%} of a core",
        )
    if result.backwards:
        yield FaultCode.CLOCK, f"{result.backwards} requests ended before they began"
    if result.scheduled not in (None, result.offered):
        yield (
            FaultCode.GENERATOR_AT_LIMIT,
            f"the generator accounts for {result.offered} of {result.scheduled} scheduled requests",
        )
    if (broken := little(run, result)) is not None:
        yield FaultCode.CLOCK, f"times do not add up: {broken}"


def _starved(run: LoadRun, result: LoadResult) -> Found:
    """Whether a worker wanted a CPU and had none, which dispatch lag shows of half of its work.

    On a host of ours the share of others on its cores is judged; here the server may be one.
    """
    share = result.run_delay_s / result.elapsed_s
    each_s = result.run_delay_s * run.workers / max(1, result.offered)
    limit_s = _lag_limit_s(result)
    if share > STARVED_LIMIT or each_s > limit_s:
        yield (
            FaultCode.GENERATOR_AT_LIMIT,
            f"a generator worker waited for a CPU in {share:.1%} of the time, at most "
            f"{STARVED_LIMIT:.0%}, and {each_s * 1e3:.2f} ms a request, at most "
            f"{limit_s * 1e3:.2f} ms",
        )


def _lag_limit_s(result: LoadResult) -> float:
    """How late the generator may be, by the latency that is reported."""
    return max(LAG_LIMIT_S, LAG_SHARE * result.due_to_done.quantile_s(0.99))


def _stall(result: LoadResult) -> Found:
    # Many slow requests at once are silent only until the first is answered.
    limit_s = STALL_S + max(STALL_TIMES * result.silence_p99_s, result.usual_s)
    if result.silence_s > limit_s:
        yield (
            FaultCode.STALLED,
            f"no answer for {result.silence_s:.2f} s while requests were under way, at most "
            f"{limit_s:.2f} s; one usually takes {result.usual_s * 1e3:.3g} ms",
        )


def _platform(grant: Grant, deployment: Deployment, result: LoadResult, window: Window) -> Found:
    if grant.method == "container":
        return  # the replica may fill those cores itself; what others took is judged below
    used = window.replica_s / (result.elapsed_s * grant.vcpus * deployment.replicas)
    if window.platform_busy > PLATFORM_FULL and used < REPLICA_FULL:
        yield (
            FaultCode.GENERATOR_AT_LIMIT,
            f"generator's and ingress' cores {window.platform_busy:.0%} busy, "
            f"replica only {used:.0%}",
        )


def _dispatch(run: LoadRun, result: LoadResult) -> Found:
    if run.mode == "closed":
        return
    lag = result.dispatch_lag.quantile_s(0.99)
    if result.ok and lag > _lag_limit_s(result):
        yield FaultCode.DISPATCH_LAG, f"p99 of dispatch lag {lag * 1e3:.2f} ms"
    if result.unsent or result.waited > UNCONNECTED_SHARE * result.offered:
        # A loop that is not open any more says nothing of what the server would have done.
        yield (
            FaultCode.GENERATOR_AT_LIMIT,
            f"{result.waited} of {result.offered} requests waited for a connection, "
            f"{result.unsent} until their timeout: a load worker may open "
            f"{result.connections:,} (ulimit -n says less on some hosts)",
        )
        return
    missing = result.offered - result.ok - sum(result.errors.values())
    if missing > RATE_SHORTFALL * result.offered:
        yield FaultCode.RATE_NOT_MET, f"{result.ok} of {result.offered} requests answered"
    grown = result.backlog_growth * run.duration_s
    if grown > max(10.0, 0.1 * result.offered):
        yield FaultCode.BACKLOG_GROWING, f"{grown:.0f} more requests waiting at the end"


def _replica(deployment: Deployment, grant: Grant, result: LoadResult, window: Window) -> Found:
    slack = _SLACK_S if grant.quota_cpus else _TICKS_S
    allowed = deployment.replicas * (grant.vcpus * (1 + GRANT_EXCESS) * window.wall_s + slack)
    if window.replica_s > allowed:
        yield (
            FaultCode.OVER_GRANT,
            f"used {window.replica_s / window.wall_s:.3f} CPUs of "
            f"{grant.vcpus * deployment.replicas:g} granted",
        )
    if deployment.instance.enforcement == "cpuset" and window.throttled_periods:
        yield FaultCode.THROTTLED, f"{window.throttled_periods} periods, of a type without quota"
    if window.replica_changed:
        yield FaultCode.REPLICA_CHANGED, "a replica ended or was replaced during the run"
    if window.fallback_sessions:
        yield (
            FaultCode.FALLBACK_PROXY,
            f"{window.fallback_sessions} requests went through the Python fallback proxy",
        )


def _audit(deployment: Deployment, window: Window) -> Found:
    for line in window.violations:
        yield FaultCode.NOT_ENFORCED, line
    # Threads that share the work evenly use one part in as many as there are.
    least = 0.5 / (deployment.threads + 1)
    for shares in window.thread_shares:
        busy = sum(share > least for share in shares)
        if busy > deployment.threads:
            yield (
                FaultCode.NOT_ENFORCED,
                f"the replica computed with {busy} threads, its deployment declares "
                f"{deployment.threads}",
            )


def _host(window: Window) -> Found:
    ticks = _TICKS_S / window.wall_s
    taken = window.others_on_replica_cores
    if taken > OTHERS_LIMIT + ticks:
        yield (
            FaultCode.CORES_SHARED,
            f"others used {taken:.1%} of the replica's cores, at most {OTHERS_LIMIT + ticks:.1%}",
        )
    if window.container_throttled_periods:
        yield (
            FaultCode.THROTTLED,
            f"the container around everything ran out of its quota in "
            f"{window.container_throttled_periods} periods",
        )
    if window.others_on_platform_cores > STRANGERS_LIMIT + _COUNTED_TICKS * ticks:
        yield (
            FaultCode.NOISY_HOST,
            f"other programs used {window.others_on_platform_cores:.0%} of the cores of generator "
            "and ingress",
        )


def _container(grant: Grant, result: LoadResult, window: Window) -> Found:
    """Where the replica shares its instance with us: who took how much of it."""
    ticks = _TICKS_S / window.wall_s
    whole = f"of the container's {grant.vcpus:g} CPUs, which the replica shares with them"
    load = (result.generator_cpu_s + window.ingress_s) / (grant.vcpus * window.wall_s)
    strangers, everyone = window.others_on_platform_cores, window.others_on_replica_cores
    if load > CONTAINER_LIMIT + ticks:
        yield (
            FaultCode.CORES_SHARED,
            f"generator and ingress used {load:.1%} {whole}; only a slower model or a larger "
            "container can be measured like this",
        )
    elif strangers > OTHERS_LIMIT + _COUNTED_TICKS * ticks:
        yield FaultCode.CORES_SHARED, f"other programs used {strangers:.1%} {whole}"
    elif everyone > CONTAINER_ALL_LIMIT + ticks:
        yield (
            FaultCode.CORES_SHARED,
            f"Ray, ingress and generator used {everyone:.1%} {whole}; use a larger container",
        )
    elif window.waited > WAITED_LIMIT and not window.container_throttled_periods:
        yield (
            FaultCode.NOISY_HOST,
            f"the model waited for a CPU in {window.waited:.0%} of the time in which it wanted "
            "one, within its quota: others use the CPUs that this container may use",
        )


def steal_faults(share: float, cpus: str) -> Found:
    """Whether the hypervisor took too large a share of the time of these CPUs."""
    if share > STEAL_LIMIT:
        yield FaultCode.NOISY_HOST, f"the hypervisor took {share:.1%} of {cpus}"


def clock_faults(slew_ppm: float, suspended_s: float) -> Found:
    """Whether the clock that latencies are read from ran evenly."""
    if abs(slew_ppm) > SLEW_LIMIT_PPM:
        yield FaultCode.CLOCK, f"the clock was slewed by {slew_ppm:+.0f} ppm"
    if suspended_s > SUSPENDED_LIMIT_S:
        yield FaultCode.CLOCK, f"the machine was suspended for {suspended_s:.3f} s"


def not_enforced(deployment: Deployment, grant: Grant) -> Fault | None:
    """A fault where the host could not enforce what the instance type says.

    Affinity alone gives whole CPUs truthfully, never a fraction of one.
    """
    if grant.method == "affinity" and deployment.instance.enforcement == "quota":
        return Fault(
            code=FaultCode.NOT_ENFORCED,
            detail=f"{deployment.instance.label} needs control groups, which this host denies; "
            "whole CPUs (cpuset) can be measured by affinity",
        )
    return None
