"""The clean log as TFDS data sets in ArrayRecord files, for readers outside this project.

Two data sets, because they have different features: `sequences`, one example a user, and `items`, one
example an item, both in index order with the single split `train`. Read them with
`tfds.builder_from_directory(folder / 'sequences' / VERSION).as_data_source()['train']`.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import io
import os
from typing import Any, ClassVar

from etils import epath
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2
import tqdm

VERSION = '1.0.0'


class _StableWriter(tfds.core.ExampleWriter):
  """Writes the features of an example in the order of their names.

  An example is a protobuf map; without being told, protobuf writes it in the order of a hash table
  that differs from process to process.
  """

  def write(self, path: epath.PathLike, examples: Iterable[tuple[Any, bytes]]) -> Any:
    example = tf_example_pb2.Example
    return super().write(
      path,
      (
        (key, example.FromString(content).SerializeToString(deterministic=True))
        for key, content in examples
      ),
    )


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder over examples that are already in memory, in a fixed order."""

  VERSION = tfds.core.Version(VERSION)
  pkg_dir_path = epath.Path(__file__).parent  # TFDS looks for a README beside the builder
  code_path = epath.Path(__file__)  # what TFDS would infer with the package importlib_resources
  description: ClassVar[str]
  feature_types: ClassVar[Mapping[str, Any]]

  def __init__(self, examples: Iterable[dict[str, Any]], data_dir: epath.PathLike):
    self._examples = examples
    super().__init__(data_dir=data_dir, file_format='array_record')

  def _info(self) -> tfds.core.DatasetInfo:
    # `dataset_info_from_configs` would look for metadata files in a package of this data set.
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.description,
      features=tfds.features.FeaturesDict(dict(self.feature_types)),
      disable_shuffling=True,  # example u is user u
    )

  def _example_writer(self) -> tfds.core.ExampleWriter:
    return _StableWriter(file_format=self.info.file_format)

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    return {'train': self._generate_examples()}

  def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(self._examples)


class _Sequences(_Builder, skip_registration=True):
  name = 'sequences'
  description = (
    "Users' interactions, oldest first; the last is for test, the one before validation."
  )
  feature_types: ClassVar = {
    'user': tfds.features.Text(),
    'items': tfds.features.Sequence(np.int32),
    'times': tfds.features.Sequence(np.int64),
    'validation_item': np.int32,
    'validation_time': np.int64,
    'test_item': np.int32,
    'test_time': np.int64,
  }


class _Items(_Builder, skip_registration=True):
  name = 'items'
  description = 'The catalogue: raw ids and texts by item index.'
  feature_types: ClassVar = {
    'id': tfds.features.Text(),
    'index': np.int32,
    'title': tfds.features.Text(),
    'text': tfds.features.Text(),
  }


def write(
  folder: epath.PathLike,
  user_ids: list[str],
  items: list[dict[str, Any]],
  arrays: Mapping[str, np.ndarray],
) -> None:
  """Writes `folder/{sequences,items}/VERSION`.

  Args:
    folder: created; must not hold these data sets yet.
    user_ids: U raw ids.
    items: I objects with id and text, and title where known.
    arrays: train_items, train_times (flat), train_offsets `[U + 1]`, and `[U]` each:
      validation_items, validation_times, test_items, test_times.
  """
  offsets = arrays['train_offsets']
  sequences = (
    {
      'user': user,
      'items': arrays['train_items'][offsets[u] : offsets[u + 1]],
      'times': arrays['train_times'][offsets[u] : offsets[u + 1]],
      'validation_item': int(arrays['validation_items'][u]),
      'validation_time': int(arrays['validation_times'][u]),
      'test_item': int(arrays['test_items'][u]),
      'test_time': int(arrays['test_times'][u]),
    }
    for u, user in enumerate(user_ids)
  )
  catalogue = (
    {'id': item['id'], 'index': i, 'title': item.get('title', ''), 'text': item['text']}
    for i, item in enumerate(items)
  )
  _build(_Sequences, tqdm.tqdm(sequences, 'sequences', len(user_ids), unit=' users'), folder)
  _build(_Items, tqdm.tqdm(catalogue, 'items', len(items), unit=' items'), folder)


def _build(kind: type[_Builder], examples: Iterable[dict[str, Any]], folder: epath.PathLike):
  # TFDS announces itself on stdout and draws two bars of its own, one of them named by a glob.
  tfds.disable_progress_bar()
  with contextlib.redirect_stdout(io.StringIO()):
    kind(examples, os.fspath(folder)).download_and_prepare()
