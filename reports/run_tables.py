"""Tables about the run: where it ran, what it left out, how to do it again."""

from __future__ import annotations

from reports import formatting as f
from reports.bundle import Bundle
from reports.table import Mark, Table
from serving.records import OwnLimits

FILES = (
    ("study.json", "what was studied, the seed, what was left out"),
    ("environment.json", "the host and the versions"),
    ("variants.jsonl", "model files, sizes, quality, parity"),
    ("bench.jsonl", "in-process latency and throughput"),
    ("measurements.jsonl", "every load run with its full histograms and faults"),
    ("profiles.jsonl", "service profiles drawn from the measurements"),
    ("curves.jsonl", "predicted latency against rate"),
    ("recommendations.jsonl", "plans and every rejected candidate"),
    ("report.json", "every table of this report, and all records with their quantiles"),
)

CONFIRMED = (
    ("claims/*.json", "what was proven of a recommendation, a file for each profile"),
    ("confirmations.jsonl", "every run that was made to prove it, invalid ones included"),
)


PRIORITIES = {
    "fifo": "real time (SCHED_FIFO); ingress and replicas run at normal priority",
    "normal": "normal: raising it is not permitted here",
}


def environment(bundle: Bundle) -> Table:
    """Host and the versions that the figures belong to."""
    env = bundle.environment
    rows: list[tuple[str, str]] = []
    if env:
        rows = [
            ("CPU", env.cpu_model),
            ("Logical CPUs", f"{env.logical_cpus}, threads per core {env.threads_per_core}"),
            ("Instruction sets", ", ".join(env.instruction_sets) or f.NOTHING),
            ("Memory", f.gib(env.memory_gib)),
            ("Kernel", env.kernel),
            ("Frequency governor", env.governor or "not visible"),
            ("Virtualised", "yes" if env.virtualised else "no"),
            ("Limits on Tonnage itself", limits(env.own_limits)),
            ("Instance sizes enforced by", env.enforcement),
            ("CPUs of replicas", _cpus(env.replica_cpus)),
            ("CPUs of ingress, generator, Ray", _cpus(env.platform_cpus)),
            ("Priority of the generator", PRIORITIES[env.generator_priority]),
            ("Python", env.python),
            *sorted(env.packages.items()),
            ("Environment hash", env.content_hash()),
        ]
    info = bundle.info
    rows += [
        ("Data", info.dataset),
        ("Study configuration hash", info.config_hash),
        ("Seed", str(info.seed)),
        ("Started", info.started_at),
    ]
    return Table(
        name="environment",
        title="Environment",
        header=("What", "Value"),
        rows=tuple(rows),
        mark=Mark.MEASURED,
        text_columns=(0, 1),
    )


def limits(own: OwnLimits | None) -> str:
    """What the container, slice or service around Tonnage may use."""
    if own is None:
        return "not read"
    quota = "no quota" if own.quota_cpus is None else f"a quota of {own.quota_cpus:g} CPUs"
    most = own.memory_bytes
    memory = "no memory limit" if most is None else f"at most {f.memory(most)} of memory"
    return f"CPU{'s' * (len(own.cpus) > 1)} {_cpus(own.cpus)}, {quota}, {memory}"


def skipped(bundle: Bundle) -> Table:
    """Cells that were left out, each with why."""
    return Table(
        name="skipped",
        title="Left out of this run",
        header=("Cell and reason",),
        rows=tuple((line,) for line in bundle.info.skipped),
        mark=Mark.REFUSED,
    )


def files(bundle: Bundle) -> Table:
    """Machine-readable files behind every table (seed row C6)."""
    confirmed = CONFIRMED if bundle.claims else ()
    return Table(
        name="files",
        title="Machine-readable results, in the folder of this run",
        header=("File", "What it holds"),
        rows=(*FILES, *confirmed),
        mark=None,
        text_columns=(0, 1),
        notes=(f"Study {bundle.info.name}; JSON Lines hold one record a line.",),
    )


def _cpus(cpus: tuple[int, ...]) -> str:
    return ", ".join(map(str, cpus)) or "none"
