"""Autoscaling advice: how a plan follows its demand over the day, checked by a burst.

The plan holds the peak all day. Here it shrinks with the load: the number of ongoing
requests that Ray Serve is told to keep per replica is the largest at which it never holds
fewer replicas than the planner asks for at that rate. Then the hardest rise of the day is
replayed with the autoscaler acting, and the least number of replicas is raised until the
objective holds during it, or there is nothing left to save.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np

from loadtests.arrivals import Step, Steps, due_times
from planner.advice import (
    AutoscalingAdvice,
    AutoscalingRefusal,
    BurstReplay,
    ScalingSettings,
)
from planner.burst import Bounds, Work, replay
from planner.curve import predictor
from planner.daily import Burst, Daily
from planner.occupancy import occupancy
from planner.records import HOURS_PER_MONTH, CpuFactor, Demand, Plan, ServiceProfile
from planner.sharing import capacity, crowding
from planner.simulate import draw, sojourns
from planner.sizing import Sizing
from planner.surface import HIGHEST_UTILISATION, simulated_as

MOST_REPLAYED = 500_000
"""Requests of one replay: some seconds of computing."""

CALM = {"look_back_period_s": 30.0, "metrics_interval_s": 10.0, "upscale_delay_s": 30.0}
"""Ray Serve's defaults."""

BRISK = {"look_back_period_s": 10.0, "metrics_interval_s": 2.0, "upscale_delay_s": 2.0}
"""As quick as a mean over some hundred requests allows. Each replica then sends its notes
five times as often."""

_WARM_S = CALM["look_back_period_s"] + 2 * CALM["metrics_interval_s"]
"""Before a replay is judged: fills the longest look-back period with notes."""

_SCHEDULES = 3
_SETTLE_S = 30.0
_MOST_TRIES = 12
_GRID_RATES = 48
_UTILISATIONS = np.array([0.05, 0.2, 0.4, 0.55, 0.65, 0.75, HIGHEST_UTILISATION])
_LANES, _WARM_UP, _REQUESTS = 16, 300, 700
_LEAST_QUEUE = 8
_TARGETS_SEEN = 4
"""A replica has to be seen with this many times its target, or a backlog looks like a
load that one more replica would do for."""


def advise(
    demand: Demand,
    plan: Plan,
    profile: ServiceProfile,
    factor: CpuFactor,
    usd_per_hour: float | None,
    seed: int,
) -> AutoscalingAdvice | AutoscalingRefusal | None:
    """Advice for the ``plan`` of a ``demand``, why there is none, or None without a day.

    ``profile`` is the one the plan rests on, ``factor`` that of its CPUs, ``usd_per_hour``
    the price of one of its instances.
    """
    daily = demand.daily
    if daily is None:
        return None
    static = plan.replicas

    def refused(reason: str, best: BurstReplay | None = None) -> AutoscalingRefusal:
        return AutoscalingRefusal(reason=reason, static_replicas=static, burst=best)

    if plan.instances == 1 and static > 1:
        return refused("all replicas are on one machine, which costs the same with fewer of them")
    if profile.startup_s is None:
        return refused("how long a replica takes to start was not measured")
    follower = _Follower(demand, daily, profile, factor, static, seed)
    fewest = follower.needed(min(daily.rates_rps))
    if fewest >= static:
        return refused(
            f"at its lowest, {min(daily.rates_rps):g} req/s, the day needs "
            f"{'the one replica' if static == 1 else f'all {static} replicas'} as well"
        )
    why, tried = "", None
    for settings in follower.settings(fewest):
        burst = follower.hardest(settings)
        requests = burst.before_rps * _WARM_S + sum(burst.rates_rps)
        if requests > MOST_REPLAYED:
            return refused(
                f"the rise to {burst.peak_rps:g} req/s takes {requests:,.0f} requests to replay, "
                f"and at most {MOST_REPLAYED:,} are; give a shorter rise_s"
            )
        tried = follower.check(settings, burst)
        if tried.holds:
            found = follower.advice(settings, tried, plan, usd_per_hour)
            if found.mean_machines < plan.instances:
                return found
            return refused("fewer replicas at night would leave no machine without any", tried)
        why = follower.too_late(burst, tried)
    return refused(why, tried)


class _Follower:
    """One profile under one CPU factor that follows one day; figures at their lower bound."""

    def __init__(
        self,
        demand: Demand,
        daily: Daily,
        profile: ServiceProfile,
        factor: CpuFactor,
        static: int,
        seed: int,
    ) -> None:
        assert profile.startup_s is not None  # noqa: S101 - the caller looked
        self.demand, self.daily, self.static = demand, daily, static
        self._factor, self._seed = factor, seed
        self._predictor = predictor(profile, seed)
        self.startup_s = profile.startup_s
        self._ready_s = profile.startup_s + daily.machine_start_s
        alone_rps = profile.capacity_interval.low
        values, counts = profile.service.values()
        slow = occupancy(profile, profile.capacity_rps / alone_rps * values, counts, alone_rps)
        # Fewer of them may be packed denser: five quarters are on two cores, four on one.
        numbers = range(1, static + 1)
        crowded = max(crowding(profile, k).mid for k in numbers)
        self._work = slow._replace(busy_s=crowded * slow.busy_s, first_s=crowded * slow.first_s)
        self._replica_rps = min(capacity(profile, k).low for k in numbers) * factor.low
        self._loads: dict[int, np.ndarray] = {}
        slowest = ScalingSettings(min_replicas=1, max_replicas=1, target_ongoing_requests=1)
        self._rises = daily.rises(
            self._ready_s
            + slowest.look_back_period_s
            + slowest.metrics_interval_s
            + slowest.upscale_delay_s
            + _SETTLE_S
        )
        self.needed = cache(self._needed)
        self.target = self._target()
        # What a replica answers within the limit; more than that can only be late.
        in_time = demand.slo.limit_ms / 1e3 * profile.capacity_rps * factor.mid
        most = math.ceil(max(_LEAST_QUEUE, in_time, _TARGETS_SEEN * self.target))
        self.bounds = Bounds(most, most)

    def _needed(self, rate_rps: float) -> int:
        """Replicas that the planner asks for at a rate, spares counted."""
        asked = self.demand.model_copy(update={"rate_rps": max(rate_rps, 1e-6)})
        found = Sizing(self._predictor, self._factor, 1, asked).smallest
        return min(found, self.static) if isinstance(found, int) else self.static

    def _load(self, replicas: int) -> np.ndarray:
        """Ongoing requests of one of so many replicas, at each of ``_UTILISATIONS``."""
        kept = self._loads.get(replicas)
        if kept is None:
            rng = np.random.default_rng(self._seed)
            length, lanes = _WARM_UP + _REQUESTS, _LANES
            capacity = self._replica_rps / self._factor.low
            rates = _UTILISATIONS * capacity * replicas
            gaps = rng.exponential(size=(length, 1, lanes))
            arrivals = np.cumsum(gaps, axis=0) / rates[:, None]
            places = np.broadcast_to(rng.random((length, 1, lanes)), arrivals.shape)
            shape = (length, -1)
            times = sojourns(
                arrivals.reshape(shape),
                draw(self._work.busy_s, self._work.counts, places).reshape(shape),
                first=draw(self._work.first_s, self._work.counts, places).reshape(shape),
                replicas=replicas,
                quota=self._work.quota,
            )
            mean = times[_WARM_UP:].reshape(_REQUESTS, len(rates), lanes).mean(axis=(0, 2))
            # Little's law; more load never means fewer requests.
            kept = self._loads[replicas] = np.maximum.accumulate(rates / replicas * mean)
        return kept

    def held(self, rate_rps: float, target: float, fewest: int) -> int:
        """Replicas at which the autoscaler comes to rest at a constant rate."""
        full = self._replica_rps * HIGHEST_UTILISATION
        first = max(fewest, math.ceil(rate_rps / full - 1e-9))
        few, enough = first - 1, max(first, self.static)
        while enough - few > 1:  # more replicas have fewer requests each
            middle = (few + enough) // 2
            utilisation = rate_rps / (middle * self._replica_rps)
            load = np.interp(utilisation, _UTILISATIONS, self._load(simulated_as(middle)))
            load *= min(1.0, utilisation / _UTILISATIONS[0])
            few, enough = (few, middle) if load <= target else (middle, enough)
        return min(enough, self.static)

    def _target(self) -> float:
        """The largest target at which no rate of the day is left with too few replicas."""
        lowest, highest = min(self.daily.rates_rps), self.daily.peak_rps
        asked = [(r, self.needed(r)) for r in np.linspace(lowest, highest, _GRID_RATES).tolist()]
        low, high = 0.0, float(self._load(1)[-1])
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            enough = all(self.held(rate, middle, 1) >= needed for rate, needed in asked)
            low, high = (middle, high) if enough else (low, middle)
        return float(f"{max(low, 1e-3):.3g}")

    def settings(self, fewest: int) -> Iterator[ScalingSettings]:
        """What to try, the cheapest first."""
        step = -(-(self.static - fewest) // _MOST_TRIES)
        for least in range(fewest, self.static, step):
            for pace in (CALM, BRISK):
                for most in sorted({self.static, self.demand.max_replicas}):
                    yield ScalingSettings(
                        min_replicas=least,
                        max_replicas=most,
                        target_ongoing_requests=self.target,
                        **pace,
                    )

    def hardest(self, settings: ScalingSettings) -> Burst:
        """The rise that asks for the most replicas beyond those that are there before it."""

        def lack(burst: Burst) -> tuple[int, float]:
            before = self._before(settings, burst)
            return self.needed(burst.peak_rps) - before, burst.peak_rps / before

        return max(self._rises, key=lack)

    def _before(self, settings: ScalingSettings, burst: Burst) -> int:
        return self.held(burst.before_rps, settings.target_ongoing_requests, settings.min_replicas)

    def check(self, settings: ScalingSettings, burst: Burst) -> BurstReplay:
        """Replay a rise on several schedules, until one of them fails."""
        worst: BurstReplay | None = None
        for number in range(_SCHEDULES):
            found = self._replay(settings, burst, self._seed + number)
            if worst is None or _badness(found) > _badness(worst):
                worst = found
            if not found.holds:
                break
        assert worst is not None  # noqa: S101 - there is one schedule at least
        return worst

    def _replay(self, settings: ScalingSettings, burst: Burst, seed: int) -> BurstReplay:
        work, slo, warm_s = self._work, self.demand.slo, _WARM_S
        steps = [Step(rate_rps=burst.before_rps, seconds=warm_s)]
        steps += [Step(rate_rps=rate, seconds=1) for rate in burst.rates_rps]
        until = warm_s + len(burst.rates_rps)
        due = due_times(Steps(steps=tuple(steps)), until, seed)
        places, far = np.random.default_rng([seed, 2]).random((2, len(due)))
        speed = self._factor.low
        before = self._before(settings, burst)
        done = replay(
            due,
            Work(
                draw(work.busy_s, work.counts, places) / speed,
                draw(work.first_s, work.counts, places) / speed,
                work.beyond_at(far) / speed,
                work.quota,
            ),
            settings,
            self.bounds,
            replicas=before,
            startup_s=self._ready_s,
        )
        latency = done.latency_s[due >= warm_s]
        over = int((latency > slo.limit_ms / 1e3).sum())
        in_time = over <= (1 - slo.quantile) * len(latency)
        missed = self._missed(latency) if in_time else ""
        quantile = float(np.quantile(latency, slo.quantile, method="higher"))
        return BurstReplay(
            from_rps=burst.before_rps,
            to_rps=burst.peak_rps,
            rise_s=burst.rise_s,
            n=len(latency),
            over=over,
            refused=int(np.isinf(latency).sum()),
            quantile_ms=1e3 * quantile if math.isfinite(quantile) else None,
            replicas_before=before,
            most_replicas=done.between(warm_s, until)[1],
            holds=in_time and not missed,
            missed=missed,
        )

    def _missed(self, latency_s: np.ndarray) -> str:
        """The first thing beside the principal objective that such latencies miss."""
        demand, n = self.demand, len(latency_s)
        for slo in demand.more_slos:
            if (latency_s > slo.limit_ms / 1e3).sum() > (1 - slo.quantile) * n:
                return str(slo)
        refused = np.isinf(latency_s).sum() / n
        if demand.error_budget is not None and refused > demand.error_budget:
            share, budget = 100 * refused, 100 * demand.error_budget
            return f"the error budget of {budget:.6g} %: {share:.3g} % are refused, which"
        return ""

    def advice(
        self, settings: ScalingSettings, burst: BurstReplay, plan: Plan, usd_per_hour: float | None
    ) -> AutoscalingAdvice:
        """Put the settings that hold together with what they cost over the day."""
        replicas = [
            self.held(rate, settings.target_ongoing_requests, settings.min_replicas)
            for rate in self.daily.rates_rps
        ]
        minutes = _by_minute(replicas, self.daily.part_s, settings.downscale_delay_s)
        machines = np.ceil(minutes / plan.candidate.replicas_per_instance)
        per_month = None if usd_per_hour is None else usd_per_hour * HOURS_PER_MONTH
        return AutoscalingAdvice(
            settings=settings,
            max_ongoing_requests=self.bounds.ongoing,
            max_queued_requests=self.bounds.queued,
            startup_s=self.startup_s,
            machine_start_s=self.daily.machine_start_s,
            replicas=tuple(replicas),
            static_replicas=self.static,
            mean_replicas=float(minutes.mean()),
            mean_machines=float(machines.mean()),
            usd_per_month=None if per_month is None else per_month * float(machines.mean()),
            static_usd_per_month=None if per_month is None else per_month * plan.instances,
            burst=burst,
        )

    def too_late(self, burst: Burst, tried: BurstReplay) -> str:
        """Say why the rise comes too fast."""
        before = tried.replicas_before
        seconds = range(len(burst.rates_rps))
        rising = (s for s in seconds if self.needed(burst.rates_rps[s]) > before)
        full = (s for s in seconds if burst.rates_rps[s] > before * self._replica_rps)
        begin = next(rising, 0)
        room = next(full, len(seconds)) - begin
        decision = BRISK["metrics_interval_s"] + BRISK["upscale_delay_s"]
        late = f"{tried.share_over:.1%} of all requests are over the limit"
        if tried.missed:
            late = f"{tried.missed} does not hold"
        rise = (
            f"from {burst.before_rps:g} to {burst.peak_rps:.4g} req/s in {burst.rise_s:g} s, "
            f"{late} even with {before} of the {self.static} replicas at the beginning"
        )
        if self._ready_s + decision > room:
            return (
                f"start-up of {self._ready_s:.3g} s, and {decision:g} s until Ray Serve decides, "
                f"is longer than the {room} s in which the load outgrows {before} "
                f"replica{'s' if before > 1 else ''}: {rise}"
            )
        return f"no fewer replicas hold the rise: {rise}"


def _badness(tried: BurstReplay) -> tuple[bool, float]:
    return not tried.holds, tried.share_over


def _by_minute(replicas: list[int], part_s: float, delay_s: float) -> np.ndarray:
    """Replicas minute by minute, of a day that is followed by one like it.

    Going down takes the delay: until then the highest number of the time before is kept.
    """
    each = max(1, round(part_s / 60))
    day = np.repeat(np.array(replicas), each)
    window = min(len(day), 1 + math.ceil(delay_s * each / part_s))
    around = np.concatenate([day[len(day) - window + 1 :], day]) if window > 1 else day
    return np.asarray(np.lib.stride_tricks.sliding_window_view(around, window).max(axis=1))
