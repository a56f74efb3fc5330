"""Look before you train: examples as text and ids, or the very arrays that a host would train on.

python -m recjax.inspect --config=configs/beauty.py:cpu --examples=20 [--task=mim] [--examples_seen=N]
python -m recjax.inspect --config=configs/beauty.py:cpu --batches=5 --examples_seen=N --hosts=4 --host=1 --out=F.npz
"""

from collections.abc import Iterator
import sys

from absl import app, flags
from etils import epath
from ml_collections import config_flags
import numpy as np

from recjax import config as config_lib
from recjax import train
from recjax.data import loader, mixture, packing
from recjax.data.dataset import Dataset
from recjax.data.tasks.base import Component, Example
from recjax.data.vocabulary import Vocabulary


def make_stream(config: config_lib.Config) -> loader.Stream:
  """The stream of the first stage of a run.

  Raises:
    ValueError: the data are not prepared, or the mixture does not fit them.
  """
  return train.make_stream(config, Dataset.load(config.prepared))


def batches(
  stream: loader.Stream, examples_seen: int, count: int, host: int, hosts: int
) -> dict[str, np.ndarray]:
  """What one host trains on in the batches that follow `examples_seen`.

  Returns:
    The arrays of `recjax.data.packing.pack`, each with the batches as a new first axis.

  Raises:
    ValueError: `examples_seen` is no border of a batch, or the hosts do not divide one.
  """
  W = stream.examples_per_batch
  if examples_seen % W:
    raise ValueError(f'--examples_seen must be a multiple of a batch ({W}); got {examples_seen}')
  if not 0 <= host < hosts:
    raise ValueError(f'--host must be in [0, --hosts={hosts}); got {host}')
  loader.check_batch(stream.groups * stream.plan.rows, stream.plan.rows, hosts)
  parts = [stream.host_batch(examples_seen + step * W, host, hosts) for step in range(count)]
  return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def describe(
  stream: loader.Stream, examples_seen: int, count: int, task: str | None = None
) -> Iterator[str]:
  """Examples as they are packed: where they lie, their text, and their ids with the learnt ones in brackets.

  Args:
    stream: of a run.
    examples_seen: where to begin; a group is shown from its start.
    count: how many.
    task: a component's or a task's name, to show no other.

  Raises:
    ValueError: the mixture has no such component, or draws none any more.
  """
  parts = [p for p in stream.mixture.parts if _is_drawn(p.component, examples_seen)]
  names = {part.name for part in parts} | {part.component.task for part in parts}
  if task is not None and task not in names:
    raise ValueError(
      f'--task must be drawn from example {examples_seen} on: {", ".join(sorted(names))}; got {task!r}'
    )
  vocabulary = stream.mixture.corpus.dataset.vocabulary
  W, group, shown = stream.plan.examples, examples_seen // stream.plan.examples, 0
  while shown < count:
    members = [stream.mixture[n] for n in range(group * W, (group + 1) * W)]
    examples, row_of, _ = packing.fit([example for _, example in members], stream.plan)
    segments_R = np.zeros(stream.plan.rows, np.int64)
    for i, ((part, whole), example, row) in enumerate(zip(members, examples, row_of, strict=True)):
      segments_R[row] += 1
      if task in (None, part.name, part.component.task) and shown < count:
        shown += 1
        cut = len(whole.inputs) - len(example.inputs)
        left_out = f', {cut} tokens left out' if cut else ''
        yield (
          f'--- example {group * W + i}  {part.name}  group {group}, row {row}, '
          f'segment {segments_R[row]}{left_out}\n{_text(example, vocabulary)}\n{_ids(example)}'
        )
    group += 1


def _is_drawn(component: Component, examples_seen: int) -> bool:
  later = [weight for border, weight in component.schedule if border > examples_seen]
  return max([component.weight_at(examples_seen), *later]) > 0


def _text(example: Example, vocabulary: Vocabulary) -> str:
  return (
    f'inputs   {vocabulary.decode(example.inputs)}\ntargets  {vocabulary.decode(example.targets)}'
  )


def _ids(example: Example) -> str:
  learnt = (
    np.ones(len(example.targets), bool) if example.learnt is None else np.asarray(example.learnt)
  )
  marked = [f'[{t}]' if on else str(t) for t, on in zip(example.targets, learnt, strict=True)]
  return f'ids      {" ".join(map(str, example.inputs))} -> {" ".join(marked)}'


def define_flags() -> None:
  config_flags.DEFINE_config_file('config', None, 'The experiment.', lock_config=True)
  flags.DEFINE_integer('examples', 20, 'Examples to print.')
  flags.DEFINE_string('task', None, 'Print only examples of this component or task.')
  flags.DEFINE_integer('examples_seen', 0, 'Where in the stream to begin.')
  flags.DEFINE_integer('batches', 0, 'Write so many batches instead of printing.')
  flags.DEFINE_integer('hosts', 1, 'Hosts that share a batch.')
  flags.DEFINE_integer('host', 0, 'The host whose part is written.')
  flags.DEFINE_string('out', None, 'The .npz that --batches writes.')
  flags.mark_flag_as_required('config')


def main(_) -> None:
  given = flags.FLAGS
  try:
    stream = make_stream(config_lib.from_config_dict(given.config))
    if given.batches:
      if not given.out:
        raise ValueError('--batches must be told --out=F.npz')
      arrays = batches(stream, given.examples_seen, given.batches, given.host, given.hosts)
      out = epath.Path(given.out)
      partial = out.with_name(f'.{out.name}.partial')
      with partial.open('wb') as f:
        np.savez(f, **arrays)
      partial.replace(out)
      print(f'{given.batches} batches of host {given.host} of {given.hosts} -> {out}')
      return
    print(mixture.format_table(stream.mixture.table()))
    print(f'{stream.plan.examples} examples become {stream.plan.rows} rows\n')
    for text in describe(stream, given.examples_seen, given.examples, given.task):
      print(text)
  except ValueError as error:
    sys.exit(f'ValueError: {error}')


if __name__ == '__main__':
  define_flags()
  app.run(main)
