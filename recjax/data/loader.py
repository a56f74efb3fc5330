"""The loader: global batches as a pure function of `examples_seen`; a host assembles its own part."""

from collections.abc import Iterator
import dataclasses
import signal

import grain
import numpy as np

from recjax.data.mixture import Mixture
from recjax.data.packing import Plan, make_plan, pack
from recjax.runtime.files import digest
from recjax.schema.checks import check
from recjax.schema.stream import Loader, Mixing, Packing


@dataclasses.dataclass(frozen=True)
class Stream:
  """The stream of a run: batch k after `examples_seen` is a function of these fields alone.

  Attributes:
    mixture: index → example.
    plan: the sizes of a packing group.
    groups: packing groups a global batch.
  """

  mixture: Mixture
  plan: Plan
  groups: int

  @property
  def examples_per_batch(self) -> int:
    return self.groups * self.plan.examples

  def group(self, index: int) -> dict[str, np.ndarray]:
    """The rows of packing group `index`, counted from the start of the stream."""
    first = index * self.plan.examples
    return pack([self.mixture[n] for n in range(first, first + self.plan.examples)], self.plan)

  def host_batch(self, examples_seen: int, host: int, hosts: int) -> dict[str, np.ndarray]:
    """This host's rows `[B / hosts, T]` of the batch that follows `examples_seen` examples."""
    mine = self.groups // hosts
    first = examples_seen // self.plan.examples + host * mine
    parts = [self.group(first + g) for g in range(mine)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  def batches(
    self, examples_seen: int, steps: int, host: int, hosts: int, loader: Loader
  ) -> Iterator[dict[str, np.ndarray]]:
    """This host's parts of the next `steps` batches, prefetched by threads or processes."""

    def assemble(step: int) -> dict[str, np.ndarray]:
      return self.host_batch(examples_seen + step * self.examples_per_batch, host, hosts)

    options = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=loader.buffer)
    dataset = grain.MapDataset.range(steps).map(assemble).to_iter_dataset(options)
    if loader.workers:
      workers = grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=loader.buffer)
      dataset = dataset.mp_prefetch(workers, _leave_sigterm_to_the_parent)
    return iter(dataset)


def _leave_sigterm_to_the_parent(*_) -> None:
  """In a reading process, once it runs: launchers signal whole groups, and the parent needs batches to save at."""
  signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_stream(mixture: Mixture, packing: Packing, batch_size: int, start_id: int = 0) -> Stream:
  """The stream of batches of a mixture.

  Args:
    mixture: index → example.
    packing: the sizes of a group.
    batch_size: rows of a global batch.
    start_id: `recjax.models.start_id`.

  Raises:
    ValueError: the rows do not fit the examples.
  """
  plan = make_plan(mixture, packing, mixture.corpus.is_encoder_decoder, start_id)
  return Stream(mixture, plan, batch_size // plan.rows)


def check_batch(batch_size: int, rows: int, hosts: int, pieces: int = 1) -> None:
  """Raises a ValueError where a batch cannot be cut evenly.

  Args:
    batch_size: rows of a global batch.
    rows: of a packing group.
    hosts: how many read a part each.
    pieces: batch shards x grad_accumulation.
  """
  check(
    batch_size // rows % hosts == 0,
    f'batch_size must be a multiple of packing.rows x hosts ({rows} x {hosts}): hosts are split at '
    'the borders of packing groups',
    batch_size,
    'batch_size',
  )
  check(
    batch_size % pieces == 0,
    f'batch_size must be a multiple of the batch shards x grad_accumulation ({pieces})',
    batch_size,
    'batch_size',
  )


def fingerprint(stream: Stream, mixing: Mixing) -> dict[str, str]:
  """What the stream is made of, part by part, so that a refusal can name what changed."""
  files = stream.mixture.corpus.dataset.files_digest
  parts = stream.mixture.parts
  needs = frozenset().union(*(part.component.needs for part in parts))
  log = [f'train_{name}.npy' for name in ('ratings', 'times', 'events') if name in needs]
  log += [f'{name}.json' for name in ('times', 'events') if name in needs]
  prints = {
    'sequences': files('interactions', 'train_items.npy', 'train_offsets.npy', *log),
    'sids': files('sids', 'codes.npy'),
    'tokenizer': files('tokenizer'),
    'texts': files('texts'),
    'mixture': digest([[part.name, part.component.identity()] for part in parts]),
    'mixing': digest(dataclasses.asdict(mixing)),
    # Without the start that nearly every model has, as in earlier checkpoints.
    'packing': digest(
      {k: v for k, v in dataclasses.asdict(stream.plan).items() if k != 'start_id' or v}
    ),
    'seed': digest(stream.mixture.seed),
  }
  if needs & {'collaborative', 'semantic'}:
    prints['relations'] = files('relations')
  if 'keywords' in needs:
    prints['keywords'] = files('keywords')
  return prints
