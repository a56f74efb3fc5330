"""Writes tasks.json: one example of every task for both model families, as text and as ids.

  python -m tests.goldens.make_tasks

A difference means that runs of earlier versions cannot resume their streams: check it before you commit it.
"""

import json
import pathlib
import tempfile

from recjax import train
from recjax.data import mixture
from tests.recjax.data import rated_world

FILE = pathlib.Path(__file__).with_name('tasks.json')
FAMILIES = ('gemma', 't5')


def examples(mix: mixture.Mixture) -> dict[str, dict]:
  """Returns the first example of every component in the stream."""
  vocabulary = mix.corpus.dataset.vocabulary
  found = {}
  n = 0
  while len(found) < len(mix.parts):
    part, example = mix[n]
    if part.name not in found:
      found[part.name] = {
        'inputs': vocabulary.decode(example.inputs),
        'targets': vocabulary.decode(example.targets),
        'input_ids': example.inputs.tolist(),
        'target_ids': example.targets.tolist(),
        'learnt': None if example.learnt is None else example.learnt.tolist(),
      }
    n += 1
  return dict(sorted(found.items()))


def main() -> None:
  goldens = {}
  for family in FAMILIES:
    with tempfile.TemporaryDirectory() as folder:
      config, dataset = rated_world.prepared(pathlib.Path(folder), family)
      goldens[family] = examples(train.make_mixture(config, dataset))
  FILE.write_text(json.dumps(goldens, indent=1) + '\n')


if __name__ == '__main__':
  main()
