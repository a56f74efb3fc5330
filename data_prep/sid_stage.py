"""The stage of semantic IDs: vectors to codes, collisions resolved."""

from typing import Any

from etils import epath
import numpy as np

from data_prep import files, stages
from recjax import config as config_lib
from recjax.sids import quantizers, table


def stage(config: config_lib.Config, root: epath.Path) -> stages.Stage:
  """Reads the item vectors and writes the SID table (`recjax.sids.table`) and the codebooks."""
  sids = config.sids
  names = {
    'text': (files.TEXT_VECTORS,),
    'cooccurrence': (files.COOCCURRENCE_VECTORS,),
    'both': (files.TEXT_VECTORS, files.COOCCURRENCE_VECTORS),
  }[sids.source]
  inputs = stages.outputs(root, *names)

  def run(out: epath.Path) -> dict[str, Any]:
    # Side by side, each of length one: text and company count alike in every distance.
    vectors_ID = np.concatenate([files.load(path) for path in inputs.values()], axis=1)
    codes_IL, codebooks = quantizers.residual_kmeans(vectors_ID, sids.codes, sids.seed)
    codes_IL, size = quantizers.deduplicate(codes_IL)
    sid_table = table.SidTable(codes_IL, (*sids.codes, size), 'residual_kmeans')
    sid_table.save(out)
    with (out / 'codebooks.npz').open('wb') as f:
      np.savez(f, **{f'level_{level}': book_CD for level, book_CD in enumerate(codebooks)})
    return sid_table.statistics()

  params = {'quantizer': sids.quantizer, 'codes': list(sids.codes), 'seed': sids.seed}
  return stages.Stage('sids', run, inputs, params)
