"""The metrics of the service, in the text format of Prometheus."""

from collections.abc import Iterator

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recjax.decode.prompt_store import PromptStore

_SECONDS = (*(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),)
_WAVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST


class Metrics:
  """The metrics of one service, in a registry of their own.

  Attributes:
    calls: calls by endpoint and HTTP status.
    call_seconds: time of a call by endpoint, from its head to its answer.
    requests: answered requests; a call may hold many.
    queue: requests that wait for a wave.
    wait_seconds: time of a request before its wave.
    waves: requests of a wave.
    wave_seconds: time of a wave.
    disconnects: calls whose client left before the answer.
    in_flight: calls that wait for an answer.
    ready: 1 if the service answers.
    catalogue: 1 for the version that is used.
  """

  def __init__(self):
    self._registry = registry = prometheus.CollectorRegistry()
    for collector in (prometheus.ProcessCollector, prometheus.PlatformCollector):
      collector(registry=registry)

    def histogram(name: str, text: str, buckets, labels=()):
      return prometheus.Histogram(
        f'recjax_{name}', text, labels, buckets=buckets, registry=registry
      )

    def gauge(name: str, text: str, labels=()):
      return prometheus.Gauge(f'recjax_{name}', text, labels, registry=registry)

    def counter(name: str, text: str, labels=()):
      return prometheus.Counter(f'recjax_{name}', text, labels, registry=registry)

    self.calls = counter('calls', 'Calls.', ('endpoint', 'status'))
    self.call_seconds = histogram('call_seconds', 'Time of a call.', _SECONDS, ('endpoint',))
    self.requests = counter('requests', 'Answered requests; a call may hold many.')
    self.queue = gauge('queue_requests', 'Requests that wait for a wave.')
    self.wait_seconds = histogram('wait_seconds', 'Time of a request before its wave.', _SECONDS)
    self.waves = histogram('wave_requests', 'Requests of a wave.', _WAVE)
    self.wave_seconds = histogram('wave_seconds', 'Time of a wave in the search.', _SECONDS)
    self.disconnects = counter('disconnects', 'Calls whose client left before the answer.')
    self.in_flight = gauge('in_flight_calls', 'Calls that wait for an answer.')
    self.ready = gauge('ready', '1 if the service answers.')
    self.catalogue = gauge('catalogue', '1 for the version that is used.', ('version',))

  def text(self) -> bytes:
    """Returns the current values."""
    return prometheus.generate_latest(self._registry)

  def add_prompts(self, store: PromptStore) -> None:
    """Adds what a store of kept prompts has done."""
    self._registry.register(_Prompts(store))

  def set_catalogue(self, version: str) -> None:
    """Marks the version of the catalogue that is used from now on."""
    self.catalogue.clear()
    self.catalogue.labels(version).set(1)


class _Prompts(Collector):
  """The metrics of kept prompts, which are read when they are asked for."""

  def __init__(self, store: PromptStore):
    self._store = store

  def collect(self) -> Iterator[Metric]:
    counts, store = self._store.counts, self._store

    def counter(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
      family = CounterMetricFamily(f'recjax_{name}', text, labels=[label])
      for value, count in values.items():
        family.add_metric([value], count)
      return family

    results = {'hit': counts.hits, 'extended': counts.extended, 'miss': counts.misses}
    yield counter('prompts', 'Prompts by what was kept of them.', 'result', results)
    tokens = {'kept': counts.tokens_kept, 'read': counts.tokens_read}
    yield counter('prompt_tokens', 'Tokens of prompts that were kept, or read.', 'from', tokens)
    seconds = {'extended': counts.extend_seconds, 'miss': counts.read_seconds}
    yield counter('prompt_seconds', 'Time of reading tokens into the store.', 'result', seconds)
    evicted = CounterMetricFamily('recjax_prompts_evicted', 'Prompts that made room for others.')
    evicted.add_metric([], counts.evicted)
    yield evicted
    yield GaugeMetricFamily('recjax_prompt_slots', 'Prompts that may be kept.', store.slots)
    yield GaugeMetricFamily('recjax_prompt_bytes', 'Bytes of kept prompts.', store.num_bytes)
