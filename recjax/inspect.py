"""Prints training examples as text and ids, or writes the arrays that a host trains on.

python -m recjax.inspect --config=configs/beauty.py:cpu --examples=20 [--task=mim] [--examples_seen=N]
python -m recjax.inspect --config=configs/beauty.py --batches=5 --examples_seen=N --hosts=4 --host=1 --out=F.npz

--workdir=W, without --config, shows what the run in W trains on. In a run of stages, `--stage=NAME` selects the
stage; the first one is the default.
"""

from collections.abc import Iterator
import sys

from absl import app, flags
from etils import epath
import numpy as np

from recjax import config as config_lib
from recjax import train
from recjax.data import loader, mixture, packing
from recjax.data.dataset import Dataset
from recjax.data.tasks.base import Component, Example
from recjax.data.vocabulary import Vocabulary
from recjax.runtime.files import existing, replacing
from recjax.schema import flag as config_flag
from recjax.workdir import checkpoint_name, identity, paths, sizes
from recjax.workdir import stages as stages_lib


def planned(config: config_lib.Config, stage: str | None = None) -> stages_lib.PlannedStage:
  """Returns one stage of a run.

  Args:
    config: the config of the run.
    stage: the stage's name. None: the first stage.

  Raises:
    ValueError: the run has no such stage.
  """
  stages = {each.name: each for each in stages_lib.plan(config, epath.Path('.'))}
  names = ', '.join(stages) if config.stages else 'left out, since the config has no stages'
  if stage is not None and stage not in config.stages:
    raise ValueError(f'--stage must be {names}; got {stage!r}')
  return next(iter(stages.values())) if stage is None else stages[stage]


def make_stream(
  config: config_lib.Config, stage: str | None = None, workdir: epath.Path | None = None
) -> loader.Stream:
  """Builds the stream of one stage of a run (see `planned`).

  Args:
    config: the config of the run.
    stage: the stage's name. None: the first stage.
    workdir: the workdir that the config was read from; None: from none.

  Raises:
    ValueError: the data are not prepared, or the mixture does not fit them.
  """
  dataset = Dataset.load(paths.prepared_data(config, workdir))
  config = sizes.resolved(config, dataset, workdir)
  return train.stage_stream(planned(config, stage), dataset)


def batches(
  stream: loader.Stream, examples_seen: int, count: int, host: int, hosts: int
) -> dict[str, np.ndarray]:
  """Returns one host's arrays of the `count` batches after `examples_seen` examples.

  Returns:
    The arrays of `recjax.data.packing.pack`, each with the batches as a new first axis.

  Raises:
    ValueError: no batch begins at `examples_seen`, or the hosts do not divide a batch.
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
  """Yields packed examples as text: row and segment, the text, and the ids; learnt ids are in brackets.

  Args:
    stream: the stream of a training.
    examples_seen: the first example. The packing group of this example is shown from its start.
    count: the number of examples.
    task: the name of a component or a task; other examples are left out.

  Raises:
    ValueError: no component with this name is drawn from `examples_seen` on.
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
    for i, ((part, original), example, row) in enumerate(
      zip(members, examples, row_of, strict=True)
    ):
      segments_R[row] += 1
      if task in (None, part.name, part.component.task) and shown < count:
        shown += 1
        cut = len(original.inputs) - len(example.inputs)
        removed = f', {cut} tokens removed' if cut else ''
        yield (
          f'--- example {group * W + i}  {part.name}  group {group}, row {row}, '
          f'segment {segments_R[row]}{removed}\n{_text(example, vocabulary)}\n{_ids(example)}'
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
  learnt = np.ones(len(example.targets), bool) if example.learnt is None else example.learnt
  marked = [f'[{t}]' if on else str(t) for t, on in zip(example.targets, learnt, strict=True)]
  return f'ids      {" ".join(map(str, example.inputs))} -> {" ".join(marked)}'


def define_flags() -> None:
  """Defines the flags of `python -m recjax.inspect`."""
  config_flag.define(identity.read_config_dict)
  flags.DEFINE_string('stage', None, 'The stage of the run; the first one by default.')
  flags.DEFINE_integer('examples', 20, 'Examples to print.', lower_bound=0)
  flags.DEFINE_string('task', None, 'Print only examples of this component or task.')
  text = 'The first example, counted in the stream of the stage.'
  flags.DEFINE_integer('examples_seen', 0, text, lower_bound=0)
  flags.DEFINE_integer(
    'batches', 0, 'Write this number of batches instead of printing examples.', lower_bound=0
  )
  flags.DEFINE_integer('hosts', 1, 'Hosts that share a batch.', lower_bound=1)
  flags.DEFINE_integer('host', 0, 'The host whose part of the batches is written.')
  flags.DEFINE_string('out', None, 'The .npz file for --batches.')
  flags.DEFINE_string('workdir', None, 'Workdir of a run, instead of --config.')


def main(_) -> None:
  """Prints examples, or writes batches."""
  given = flags.FLAGS
  try:
    if given.config is None:
      raise ValueError('--config or --workdir must be given, such as --config=recjax:demo')
    if given.batches and not given.out:
      raise ValueError('--batches needs a file to write; set --out=F.npz')
    if given.out:
      existing(epath.Path(given.out).expanduser().parent, 'the folder of --out', 'folder')
    saved = config_flag.saved_in(given['config'].config_filename)
    workdir = saved and epath.Path(saved)
    config = checkpoint_name.resolved(config_lib.from_config_dict(given.config), workdir)
    stream = make_stream(config, given.stage, workdir)
    if given.batches:
      arrays = batches(stream, given.examples_seen, given.batches, given.host, given.hosts)
      with replacing(epath.Path(given.out).expanduser(), 'wb') as f:
        np.savez(f, **arrays)
      print(f'{given.batches} batches of host {given.host} of {given.hosts} -> {given.out}')
      return
    print(mixture.format_table(stream.mixture.table()))
    print(f'{stream.plan.examples} examples become {stream.plan.rows} rows\n')
    for text in describe(stream, given.examples_seen, given.examples, given.task):
      print(text)
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  define_flags()
  app.run(main, flags_parser=config_flag.parse_flags)
