"""Counters of the server, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, about: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"tbr_{name}", about, labels, registry=registry)

        self.requests = counter("requests", "Chat requests by HTTP status.", ("status", "stream"))
        self.seconds = Histogram(
            "tbr_request_seconds",
            "From a request's arrival to its last byte.",
            ("stream",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "tbr_first_byte_seconds",
            "From a streamed request's arrival to the reply's first piece of text.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("tbr_in_flight", "Open chat requests.", registry=registry)
        self.tokens = counter("tokens", "Tokens of prompts and completions.", ("kind",))
        self.answers = counter("answers", "Complete answers by reflection policy.", ("policy",))
        self.reflections = counter("reflections", "Answers with a reflection.", ("policy",))
        self.labels = counter("labels", "Answers by the rule judge's label.", ("label",))
        self.leaks = counter("marker_leaks", "Answers that hold a marker of the think block.")
        self.traces = counter("traces", "Answers taken down as traces by outcome.", ("outcome",))
        self.switches = counter("switches", "New versions by outcome.", ("outcome",))
        self.restarts = counter("engine_restarts", "Engines started again after a failure.")
        self.up = Gauge("tbr_engine_up", "1 while an engine answers.", registry=registry)
        self.model = Gauge(
            "tbr_model_info",
            "The served model.",
            ("name", "version", "model_id", "digest"),
            registry=registry,
        )

    def serves(self, name: str, version: str, model_id: str, digest: str) -> None:
        """Record which model gets the requests."""
        self.model.clear()
        self.model.labels(name, version, model_id, digest).set(1)

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self._registry)
