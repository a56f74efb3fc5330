"""Builds global batches as a pure function of `examples_seen`. Each host assembles its own part."""

from collections.abc import Iterator
import dataclasses
import itertools

import grain
import numpy as np

from recjax.data.mixture import Mixture
from recjax.data.packing import Plan, pack
from recjax.data.plan import make_plan
from recjax.data.read_ahead import consecutive
from recjax.runtime import interrupt
from recjax.runtime.files import digest
from recjax.schema.checks import check
from recjax.schema.stream import Loader, Mixing, Packing


@dataclasses.dataclass(frozen=True)
class Stream:
  """The stream of a training. The batch after `examples_seen` examples depends only on these fields.

  Attributes:
    mixture: maps an index to an example.
    plan: the sizes of a packing group.
    groups: number of packing groups in a global batch.
  """

  mixture: Mixture
  plan: Plan
  groups: int

  @property
  def examples_per_batch(self) -> int:
    """Examples in a global batch."""
    return self.groups * self.plan.examples

  @property
  def description(self) -> str:
    """How examples become batches, as one line for the log."""
    plan, batch, mix = self.plan, self.examples_per_batch, self.mixture
    epoch = '' if mix.ends_before(1.0) else f', {mix.examples_in(1.0) / batch:.1f} steps an epoch'
    return (
      f'packing: {plan.examples} examples become {plan.rows} rows of {plan.row_length} tokens; '
      f'{batch} examples a step{epoch}'
    )

  def group(self, index: int) -> dict[str, np.ndarray]:
    """Returns the arrays of packing group `index`, counted from the start of the stream."""
    count = self.plan.examples
    return pack(consecutive(self.mixture, index * count, count), self.plan)

  def host_batch(self, examples_seen: int, host: int, hosts: int) -> dict[str, np.ndarray]:
    """Returns this host's rows `[B / hosts, T]` of the batch after `examples_seen` examples."""
    num_groups = self.groups // hosts
    first = examples_seen // self.plan.examples + host * num_groups
    parts = [self.group(first + g) for g in range(num_groups)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  def batches(
    self, examples_seen: int, steps: int, host: int, hosts: int, loader: Loader
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields this host's parts of the next `steps` batches; threads or processes prefetch them."""

    def assemble(step: int) -> dict[str, np.ndarray]:
      return self.host_batch(examples_seen + step * self.examples_per_batch, host, hosts)

    options = grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=loader.buffer)
    dataset = grain.MapDataset.range(steps).map(assemble).to_iter_dataset(options)
    if not loader.workers:
      return iter(dataset)
    workers = grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=loader.buffer)
    # The training process needs batches until it has saved a checkpoint.
    with interrupt.kept_from_children():
      batches = iter(dataset.mp_prefetch(workers, interrupt.ignore_in_child))
      first = list(itertools.islice(batches, 1))  # starts the processes
    return itertools.chain(first, batches)


def make_stream(mixture: Mixture, packing: Packing, batch_size: int, start_id: int = 0) -> Stream:
  """Builds the stream of batches of a mixture.

  Args:
    mixture: maps an index to an example.
    packing: the config section.
    batch_size: rows of a global batch.
    start_id: the first token that the decoder of an encoder–decoder reads (`recjax.models.start_id`).

  Raises:
    ValueError: the rows do not fit the examples.
  """
  corpus, space = mixture.corpus, mixture.corpus.dataset.vocabulary.space
  plan = make_plan(mixture, packing, corpus.is_encoder_decoder, start_id, space)
  return Stream(mixture, plan, batch_size // plan.rows)


def check_batch(batch_size: int, rows: int, hosts: int, parts: int = 1) -> None:
  """Raises a ValueError if a batch cannot be divided evenly.

  Args:
    batch_size: rows of a global batch.
    rows: rows of a packing group.
    hosts: number of hosts that each read a part of the batch.
    parts: number of parts of a step: batch shards x grad_accumulation.
  """
  check(
    batch_size // rows % hosts == 0,
    f'batch_size must be a multiple of packing.rows x hosts ({rows} x {hosts}): every host reads whole '
    'packing groups',
    batch_size,
    'batch_size',
  )
  check(
    batch_size % parts == 0,
    f'batch_size must be a multiple of the batch shards x grad_accumulation ({parts})',
    batch_size,
    'batch_size',
  )


def fingerprint(stream: Stream, mixing: Mixing) -> dict[str, str]:
  """Returns a hash of each input of the stream; an error can then name the changed input."""
  corpus = stream.mixture.corpus
  files = corpus.dataset.files_digest
  parts = stream.mixture.parts
  needs = frozenset().union(*(part.component.needs for part in parts))
  log = [f'train_{name}.npy' for name in ('ratings', 'times', 'events') if name in needs]
  log += [f'{name}.json' for name in ('times', 'events') if name in needs]
  if corpus.dataset.target_events is not None:
    log = [*dict.fromkeys([*log, 'train_events.npy', 'events.json', 'context_events.json'])]
  digests = {
    'sequences': files('interactions', 'train_items.npy', 'train_offsets.npy', *log),
    'sids': files('sids', 'codes.npy'),
    'tokenizer': files('tokenizer'),
    'texts': files('texts'),
    'mixture': digest([[part.name, part.component.identity(corpus)] for part in parts]),
    'mixing': digest(dataclasses.asdict(mixing)),
    'packing': digest(stream.plan.identity),
    'seed': digest(stream.mixture.seed),
  }
  if needs & {'collaborative', 'semantic'}:
    digests['relations'] = files('relations')
  if 'keywords' in needs:
    digests['keywords'] = files('keywords')
  return digests
