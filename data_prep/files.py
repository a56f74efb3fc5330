"""Names of the files that stages exchange (`stage/file` in the prepared folder); reads and writes them."""

from collections.abc import Iterator
import json
from typing import Any

from etils import epath
import numpy as np

from recjax.data.prepared import Prepared
from recjax.data.sequences import Sequences
from recjax.runtime.files import is_local

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


def find_file(name: str, raw_dir: epath.Path) -> epath.Path:
  """Returns the path `raw_dir / name` if only that one exists; else the path `name`."""
  in_raw_dir = raw_dir / name
  return in_raw_dir if not epath.Path(name).exists() and in_raw_dir.exists() else epath.Path(name)


def load(path: epath.Path) -> np.ndarray:
  """Reads a .npy file."""
  with path.open('rb') as f:
    return np.load(f)


def mapped(path: epath.Path) -> np.ndarray:
  """Maps a local .npy file, which is then read where it is indexed; reads one of a bucket."""
  return np.load(path, mmap_mode='r') if is_local(path) else load(path)


def save(path: epath.Path, array: np.ndarray) -> None:
  """Writes a .npy file."""
  with path.open('wb') as f:
    np.save(f, array)


def train_sequences(prepared: Prepared) -> Sequences:
  """Reads the training items of all users, one sequence per user."""
  return Sequences(load(prepared / TRAIN_ITEMS), load(prepared / TRAIN_OFFSETS))


def save_vectors(vectors_ID: np.ndarray, out: epath.Path) -> dict[str, Any]:
  """Writes item vectors to `out/embeddings.npy`; returns the summary of the stage."""
  save(out / VECTORS, vectors_ID)
  zero_rows = int((~vectors_ID.any(axis=1)).sum())
  return {'items': len(vectors_ID), 'width': vectors_ID.shape[1], 'zero_rows': zero_rows}


def read_items(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads items.jsonl: one object per item, in item order."""
  return list(each_item(path))


def each_item(path: epath.PathLike) -> Iterator[dict[str, Any]]:
  """Yields the objects of items.jsonl in item order, without keeping them."""
  with epath.Path(path).open('r') as f:
    for line in f:
      yield json.loads(line)
