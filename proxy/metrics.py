"""What is counted, for ``/metrics``. Every label set is touched at start, so that a dashboard is whole at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.core.money import KINDS, Kind, Line, earned, total_saved
from proxy.core.observing import DOUBTS, VERDICTS, Doubt, Verdict

OUTCOMES = (
    "hit",
    "coalesced",
    "warm_miss",
    "cold_miss",
    "miss",
    "bypass",
    "relay",
    "own",
    "output",
    "stream",
    "other",
)
LEFT_BEHIND = ("adopted", "repeated", "lost")
WEBHOOK_OUTCOMES = ("sent", "failed", "given_up")
RUN_STATUSES = ("succeeded", "failed", "canceled", "aborted")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """All series of one process."""

    def __init__(self, upstreams: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("hotplate_requests_total", "Requests by outcome.", ["outcome"], registry=self.registry)
        self._request_seconds = Histogram(
            "hotplate_request_seconds",
            "Seconds to the end of the answer.",
            ["outcome"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._errors = Counter("hotplate_errors_total", "Error answers by code.", ["code"], registry=self.registry)
        self._runs = Counter(
            "hotplate_upstream_runs_total",
            "Runs of models by how they ended.",
            ["upstream", "status"],
            registry=self.registry,
        )
        self._run_seconds = Counter(
            "hotplate_upstream_predict_seconds_total", "Compute seconds of runs.", ["upstream"], registry=self.registry
        )
        self._boot_waits = Counter(
            "hotplate_boot_waits_total", "Runs that waited for a boot.", ["upstream"], registry=self.registry
        )
        self._boot_seconds = Histogram(
            "hotplate_boot_seconds",
            "Seconds that runs waited for a boot.",
            ["upstream"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._left_behind = Counter(
            "hotplate_runs_left_behind_total",
            "Runs of a former process: adopted where they went on, repeated where they ended with it, or lost.",
            ["upstream", "how"],
            registry=self.registry,
        )
        self.saved_seconds = Counter(
            "hotplate_saved_seconds_total", "Compute seconds that hits did not spend.", registry=self.registry
        )
        self.outputs_spooled = Counter(
            "hotplate_outputs_spooled_total", "Output files that were kept in memory only.", registry=self.registry
        )
        self.outputs_left = Counter(
            "hotplate_outputs_left_total", "Output files that kept the upstream's own URL.", registry=self.registry
        )
        self._stretched = Counter(
            "hotplate_stretched_acceptances_total",
            "Hits and look-ups given on an earlier acceptance, because the upstream could not be asked.",
            ["upstream"],
            registry=self.registry,
        )
        self.bypass = Gauge(
            "hotplate_bypass",
            "1 while the operator's switch has every create go past the cache.",
            registry=self.registry,
        )
        self.flights = Gauge("hotplate_runs_in_flight", "Runs on their way.", registry=self.registry)
        self._webhooks = Counter(
            "hotplate_webhooks_total",
            "Webhooks: attempts that were taken, attempts that failed, deliveries that were given up.",
            ["outcome"],
            registry=self.registry,
        )
        self.webhooks_waiting = Gauge(
            "hotplate_webhooks_waiting", "Webhooks that wait or are on their way.", registry=self.registry
        )
        self._observed = Counter(
            "hotplate_observed_total",
            "Requests that were only observed, by what the cache would have made of them.",
            ["verdict"],
            registry=self.registry,
        )
        self._observed_doubts = Counter(
            "hotplate_observed_doubts_total",
            "Reasons why runs that would have been saved are doubtful.",
            ["doubt"],
            registry=self.registry,
        )
        self._observed_seconds = Counter(
            "hotplate_observed_saved_seconds_total",
            "Compute seconds that observed requests would have saved.",
            registry=self.registry,
        )
        self._observed_money = Counter(
            "hotplate_observed_saved_money_total",
            "What those would have cost, in the operator's currency.",
            registry=self.registry,
        )
        for verdict in VERDICTS:
            self._observed.labels(verdict)
        for doubt in DOUBTS:
            self._observed_doubts.labels(doubt)
        self._outcomes = {
            outcome: (self._requests.labels(outcome), self._request_seconds.labels(outcome)) for outcome in OUTCOMES
        }
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks.labels(outcome)
        for upstream in upstreams:
            for status in RUN_STATUSES:
                self._runs.labels(upstream, status)
            for how in LEFT_BEHIND:
                self._left_behind.labels(upstream, how)
            self._stretched.labels(upstream)
            self._run_seconds.labels(upstream)
            self._boot_waits.labels(upstream)
            self._boot_seconds.labels(upstream)

    def observe_request(self, outcome: str, seconds: float) -> None:
        """One answered request of the public listener."""
        counter, histogram = self._outcomes.get(outcome, self._outcomes["other"])
        counter.inc()
        histogram.observe(seconds)

    def observe_error(self, code: str) -> None:
        """One error answer."""
        self._errors.labels(code).inc()

    def observe_saved(self, seconds: float) -> None:
        """Compute seconds that a hit did not spend."""
        self.saved_seconds.inc(seconds)

    def observe_run(self, upstream: str, status: str, predict_s: float, boot_s: float) -> None:
        """One run of a model has ended."""
        self._runs.labels(upstream, status).inc()
        self._run_seconds.labels(upstream).inc(max(predict_s, 0.0))
        if boot_s > 0:
            self._boot_waits.labels(upstream).inc()
            self._boot_seconds.labels(upstream).observe(boot_s)

    def observe_left_behind(self, upstream: str, how: str) -> None:
        """What became of a run that a former process left behind."""
        self._left_behind.labels(upstream, how).inc()

    def observe_stretched(self, upstream: str) -> None:
        """Somebody got something on an acceptance that is older than usual."""
        self._stretched.labels(upstream).inc()

    def observe_verdict(self, verdict: Verdict, doubts: tuple[Doubt, ...]) -> None:
        """What would have become of one request that was passed on."""
        self._observed.labels(verdict).inc()
        for doubt in doubts:
            self._observed_doubts.labels(doubt).inc()

    def observe_would_save(self, seconds: float, money: float) -> None:
        """One run that was made and would not have been."""
        self._observed_seconds.inc(seconds)
        self._observed_money.inc(money)

    def observe_webhook(self, outcome: str) -> None:
        """One attempt at a webhook, or the end of all."""
        self._webhooks.labels(outcome).inc()

    def export(self, prefix: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Export counters that somebody else keeps, under ``prefix``; names end in ``_total``."""
        self.registry.register(_Borrowed(prefix, read))

    def export_money(self, upstreams: tuple[str, ...], read: Callable[[], Mapping[str, Mapping[Kind, Line]]]) -> None:
        """Export the ledger's sums since the start by upstream; ``""`` is what belongs to none."""
        self.registry.register(_Money(upstreams, read))


class _Money(Collector):
    """The ledger. What was earned is a gauge, because pings, refreshes and storage take from it."""

    def __init__(self, upstreams: tuple[str, ...], read: Callable[[], Mapping[str, Mapping[Kind, Line]]]) -> None:
        self._upstreams = upstreams
        self._read = read

    def collect(self) -> Iterator[Metric]:
        sums = self._read()
        label = ["upstream"]
        counts = CounterMetricFamily(
            "hotplate_ledger_total", "Predictions and runs by kind, see docs/money.md.", labels=[*label, "kind"]
        )
        seconds = CounterMetricFamily(
            "hotplate_ledger_seconds_total", "Compute seconds made or spared, by kind.", labels=[*label, "kind"]
        )
        money = CounterMetricFamily(
            "hotplate_ledger_money_total", "Money spent or spared, by kind.", labels=[*label, "kind"]
        )
        saved = CounterMetricFamily("hotplate_saved_money_total", "Money of all hits and shared runs.", labels=label)
        kept = GaugeMetricFamily("hotplate_earned_money", "Money that the bill is smaller by.", labels=label)
        kept_s = GaugeMetricFamily("hotplate_earned_seconds", "Compute seconds not paid for.", labels=label)
        for upstream in sorted({*self._upstreams, *sums}):
            lines = sums.get(upstream, {})
            saved.add_metric([upstream], total_saved(lines).money)
            kept.add_metric([upstream], earned(lines).money)
            kept_s.add_metric([upstream], earned(lines).seconds)
            for kind in KINDS:
                line = lines.get(kind, Line())
                # Sums that began above zero, since the day did, may end a hair below it.
                counts.add_metric([upstream, kind], max(line.number, 0))
                seconds.add_metric([upstream, kind], max(line.seconds, 0.0))
                money.add_metric([upstream, kind], max(line.money, 0.0))
        yield from (counts, seconds, money, saved, kept, kept_s)


class _Borrowed(Collector):
    def __init__(self, prefix: str, read: Callable[[], Mapping[str, int]]) -> None:
        self._prefix = prefix
        self._read = read

    def collect(self) -> Iterator[Metric]:
        for name, value in self._read().items():
            yield CounterMetricFamily(self._prefix + name, name.replace("_", " "), value=value)
