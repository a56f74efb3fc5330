"""The `optimum` stage: the best metrics that a recommender can reach on the synthetic source."""

import itertools
import json
from types import ModuleType
from typing import Any

from etils import epath

from data_prep import files
from data_prep import stage as stage_lib
from recjax import config as config_lib
from recjax.data.dataset import SPLITS
from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences


def stage(source: ModuleType, config: config_lib.Config, prepared: Prepared) -> stage_lib.Stage:
  """Returns the stage that writes optimum.json: the best possible expected metrics by split."""
  ks = config.eval.ks
  names = [files.TRAIN_ITEMS, files.TRAIN_OFFSETS, files.VALIDATION_ITEMS]
  if config.data.split != 'leave_one_out':
    parts = itertools.product(SPLITS, ('items', 'offsets'))
    names = [f'interactions/{split}_history_{part}.npy' for split, part in parts]
  inputs = stage_lib.outputs(prepared, *names)

  def run(out: epath.Path) -> dict[str, Any]:
    arrays = [files.load(path) for path in inputs.values()]
    validation = Sequences(*arrays[:2])
    test = Sequences(*arrays[2:]) if len(arrays) == 4 else validation.append(arrays[2])
    best = {
      split: source.optimum(config.data, histories, ks)
      for split, histories in zip(SPLITS, (validation, test), strict=True)
    }
    (out / 'optimum.json').write_text(json.dumps(best, indent=2))
    return {name: round(best['test'][name], 4) for name in ('recall@10', 'ndcg@10')}

  return stage_lib.Stage('optimum', run, inputs, source.params(config.data) | {'ks': list(ks)})
