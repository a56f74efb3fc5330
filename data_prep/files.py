"""Files that stages exchange, by their place in the prepared folder (`stage/file`)."""

import json
from typing import Any

from etils import epath
import numpy as np

from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences

ITEMS = 'interactions/items.jsonl'
TRAIN_ITEMS = 'interactions/train_items.npy'
TRAIN_OFFSETS = 'interactions/train_offsets.npy'
VALIDATION_ITEMS = 'interactions/validation_items.npy'
VECTORS = 'embeddings.npy'
BASIS = 'basis.npy'
TEXT_VECTORS = f'text_embeddings/{VECTORS}'
COOCCURRENCE_VECTORS = f'cooccurrence_vectors/{VECTORS}'
COOCCURRENCE_BASIS = f'cooccurrence_vectors/{BASIS}'
COLLABORATIVE = ('relations/collaborative_items.npy', 'relations/collaborative_offsets.npy')


def found(name: str, raw_dir: epath.Path) -> epath.Path:
  """Returns a file at the path given; if there is none, the file at that path in the raw folder."""
  inside = raw_dir / name
  return inside if not epath.Path(name).exists() and inside.exists() else epath.Path(name)


def load(path: epath.Path) -> np.ndarray:
  """Reads an array that a stage wrote."""
  with path.open('rb') as f:
    return np.load(f)


def save(path: epath.Path, array: np.ndarray) -> None:
  """Writes an array."""
  with path.open('wb') as f:
    np.save(f, array)


def train_sequences(prepared: Prepared) -> Sequences:
  """Reads the training part of every user's sequence."""
  return Sequences(load(prepared / TRAIN_ITEMS), load(prepared / TRAIN_OFFSETS))


def save_vectors(vectors_ID: np.ndarray, out: epath.Path) -> dict[str, Any]:
  """Writes item vectors as a stage's output and returns its summary."""
  save(out / VECTORS, vectors_ID)
  zero_rows = int((~vectors_ID.any(axis=1)).sum())
  return {'items': len(vectors_ID), 'width': vectors_ID.shape[1], 'zero_rows': zero_rows}


def read_items(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the objects of an items.jsonl, in item order."""
  return [json.loads(line) for line in epath.Path(path).read_text().splitlines()]
