"""What a server counts, for Prometheus: a registry of its own, so that several servers fit in one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lmql_backends.lmtp.server.contracts import HttpRequest, HttpResponse

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
REQUEST_BUCKETS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The collectors; `ModelMetrics` has those of one model at hand."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        by_model = ("model",)
        self.requests = self._counter("requests", "Requests that ended.", (*by_model, "kind", "outcome"))
        self.tokens = self._counter("tokens", "Tokens read or made.", (*by_model, "kind"))
        self.running = self._gauge("streams_running", "Streams that run.", by_model)
        self.waiting = self._gauge("streams_waiting", "Of these, without a token yet.", by_model)
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From the request on.", by_model, FIRST_TOKEN_BUCKETS
        )
        self.seconds = self._histogram(
            "request_seconds", "Whole requests.", (*by_model, "kind"), REQUEST_BUCKETS
        )

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when somebody looks."""
        self._gauge(name, text, ()).set_function(value)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """The route /metrics."""
        return HttpResponse(body=generate_latest(self._registry), content_type=CONTENT_TYPE)

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Counter:
        return Counter(f"dcmodel_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str]) -> Gauge:
        return Gauge(f"dcmodel_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
        return Histogram(f"dcmodel_{name}", text, labels, registry=self._registry, buckets=buckets)


class ModelMetrics:
    """The collectors of one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.model = model
        self._requests = metrics.requests
        self.prompt_tokens = metrics.tokens.labels(model, "prompt")
        self.completion_tokens = metrics.tokens.labels(model, "completion")
        self.running = metrics.running.labels(model)
        self.waiting = metrics.waiting.labels(model)
        self.first_token = metrics.first_token.labels(model)
        self._seconds = metrics.seconds

    def ended(self, kind: str, outcome: str, seconds: float) -> None:
        """A request ended: ``stop``, ``length``, ``cancelled``, or the code of its error."""
        self._requests.labels(self.model, kind, outcome).inc()
        self._seconds.labels(self.model, kind).observe(seconds)
