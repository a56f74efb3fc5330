"""Measures texts per second of a sentence encoder, compared with sentence-transformers with the same weights.

Both sides alternate in one run, so that other load on the machine slows both. Our time includes reading the
weights and compilation; the model of sentence-transformers is loaded before. CPU seconds are summed over all
threads. The command fails if a vector differs: cosine below 0.9999.

Command:  python -m bench.encode --items=data/beauty/interactions/items.jsonl     (after `make encoder` and
          `pip install -e '.[bench]'`; --mode=prepare writes items.jsonl)
"""

import importlib.metadata
import sys
import time

from absl import app, flags
import numpy as np
import sentence_transformers
import torch

from bench.circumstances import circumstances, show, write
from data_prep import encoders, files
from recjax.schema.run import Mesh
from recjax.schema.sids import Sids
from recjax.sharding import mesh as mesh_lib

_ITEMS = flags.DEFINE_string('items', None, 'items.jsonl of a prepared folder.')
_ENCODER = flags.DEFINE_string(
  'encoder', 'minilm', 'minilm or a folder, like --config.sids.encoder.'
)
_EVERY = flags.DEFINE_integer('every', 1, 'Encode only every n-th text.')
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Rounds in which each side encodes all texts.')
_TORCH_THREADS = flags.DEFINE_integer(
  'torch_threads',
  0,
  'Threads of sentence-transformers; 0: default of torch.',
)
_COSINE = 0.9999


def _timed(encode) -> tuple[np.ndarray, float, float]:
  """Returns the vectors, wall seconds and CPU seconds of a call."""
  wall, cpu = time.perf_counter(), time.process_time()
  vectors_ID = encode()
  return vectors_ID, time.perf_counter() - wall, time.process_time() - cpu


def main(_) -> None:
  item_texts = [item['text'] for item in files.read_items(_ITEMS.value)][:: _EVERY.value]
  sids = Sids(encoder=_ENCODER.value)
  mesh = mesh_lib.make_mesh(Mesh())
  folder = encoders.input_files(sids.encoder)['config.json'].parent
  if _TORCH_THREADS.value:
    torch.set_num_threads(_TORCH_THREADS.value)
  model = sentence_transformers.SentenceTransformer(str(folder), local_files_only=True)
  model.encode(item_texts[:32])
  version = importlib.metadata.version('sentence-transformers')
  result = circumstances() | {'sentence_transformers': version}
  result |= {'torch_threads': torch.get_num_threads(), 'texts': len(item_texts)}
  seconds = []
  for n in range(_ROUNDS.value):
    ours_ID, *ours = _timed(lambda: encoders.encode(item_texts, sids, mesh))
    theirs_ID, *theirs = _timed(lambda: model.encode(item_texts, normalize_embeddings=True))
    seconds.append(ours + theirs)
    cosines_I = (ours_ID.astype(np.float64) * theirs_ID).sum(axis=1)
    print(
      f'round {n + 1}: ours {ours[0]:.1f} s ({ours[1]:.1f} CPU s), sentence-transformers '
      f'{theirs[0]:.1f} s ({theirs[1]:.1f} CPU s), smallest cosine {cosines_I.min():.7f}',
      flush=True,
    )
    result['least_cosine'] = min(result.get('least_cosine', 1.0), float(cosines_I.min()))
  median = np.median(seconds, axis=0).tolist()
  names = ('seconds', 'cpu_seconds', 'their_seconds', 'their_cpu_seconds')
  result |= dict(zip(names, median, strict=True))
  result['texts_per_sec'] = len(item_texts) / median[0]
  result['time_ratio'] = median[0] / median[2]  # below 1: ours is faster
  result['cpu_time_ratio'] = median[1] / median[3]
  show(result)
  write(result)
  if result['least_cosine'] < _COSINE:
    sys.exit(f'every vector must equal that of sentence-transformers: cosine {_COSINE} or more')


if __name__ == '__main__':
  flags.mark_flags_as_required(['items'])
  app.run(main)
