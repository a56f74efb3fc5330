"""The catalogue that a recommender serves: items, semantic IDs, popularity and masks of one prepared folder.

A running recommender may take another catalogue: that of a new day, whose items have semantic IDs of the same token
space. Its arrays are padded to a capacity and are arguments of the compiled search (`recjax.decode.loaded`), so that
the swap compiles nothing.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from etils import epath
import numpy as np

from recjax.data.dataset import Dataset
from recjax.data.prepared import Prepared, read_record
from recjax.decode.masks import Masks
from recjax.runtime.files import digest, existing

_STAGES = ('interactions', 'sids', 'tokenizer')


class Catalogue:
  """The items of a prepared folder.

  Attributes:
    dataset: the prepared data.
  """

  def __init__(self, dataset: Dataset, masks: epath.PathLike | None = None):
    """Wraps a data set.

    Args:
      dataset: the prepared data.
      masks: a folder of masks; see `Masks.load`. None: no mask has a name.
    """
    self.dataset, self._folder = dataset, masks
    if masks is not None:
      self.masks  # noqa: B018 errors at start

  @classmethod
  def load(
    cls, folder: epath.PathLike | Prepared, masks: epath.PathLike | None = None
  ) -> 'Catalogue':
    """Reads a prepared folder.

    Args:
      folder: of one experiment. If several experiments share it, a `Prepared` names the stage folders.
      masks: see `Catalogue`.

    Raises:
      OSError: a folder does not exist.
      ValueError: it holds no prepared data, or those of several experiments; see also `Masks.load`.
    """
    if not isinstance(folder, Prepared):
      folder = _alone(existing(folder, 'the catalogue', 'folder'))
    for stage in _STAGES:
      if not (folder / stage / 'manifest.json').exists():
        raise ValueError(
          f'{folder} must hold a prepared catalogue, as --mode=prepare writes it; it has no stage {stage}'
        )
    try:
      dataset = Dataset.load(folder)
    except EOFError as error:  # of an empty file
      raise ValueError(f'{folder} must hold a whole prepared catalogue; {error}') from error
    return cls(dataset, masks)

  @property
  def items(self) -> Sequence[Mapping[str, Any]]:
    """The items in index order: `id`, and `title` and other fields if the item table has them."""
    return self.dataset.items

  @functools.cached_property
  def index(self) -> dict[str, int]:
    """The index of every item id."""
    return {item['id']: i for i, item in enumerate(self.items)}

  @functools.cached_property
  def masks(self) -> Masks:
    """The named sub-catalogues."""
    return Masks(self.index) if self._folder is None else Masks.load(self._folder, self.index)

  @functools.cached_property
  def popularity_I(self) -> np.ndarray:
    """int64, the number of training interactions of every item."""
    return self.dataset.train.counts(self.dataset.num_items)

  @functools.cached_property
  def version(self) -> str:
    """Eight hex digits: equal item tables with equal semantic IDs have equal versions."""
    parts = [self.dataset.files_digest('interactions', 'items.jsonl')]
    return digest([*parts, self.dataset.files_digest('sids', 'codes.npy')])[:8]

  def places(self, other: 'Catalogue', missing: int) -> np.ndarray:
    """Returns the index in another catalogue of every item, by its id, int32 `[I]`; `missing` if it has none."""
    return np.array([other.index.get(item, missing) for item in self.index], np.int32)

  def check_fits(self, other: 'Catalogue') -> None:
    """Raises a ValueError in one line if another catalogue has no semantic IDs of this token space."""
    mine, its = self.dataset, other.dataset
    space, its_space = mine.vocabulary.space, its.vocabulary.space
    for what, want, got in (
      ('codes of the levels', list(space.level_sizes), list(its_space.level_sizes)),
      ('number of text tokens', space.text_size, its_space.text_size),
      ('code space (quantizer and codebooks)', mine.sids.code_space_hash, its.sids.code_space_hash),
    ):
      if want != got:
        raise ValueError(
          f'the catalogue in {its.folder} must have the token space of the model: {what} {want}; it has {got}. '
          'Prepare it with --config.sids.extend'
        )


def _alone(root: epath.Path) -> Prepared:
  """Returns the stage folders of the only experiment that is prepared in a folder."""
  records = {tuple(sorted(folders.items())) for folders in read_record(root).values()}
  if len(records) > 1:
    raise ValueError(
      f'{root} must hold the data of one experiment to be taken as a catalogue; {len(records)} experiments share it'
    )
  return Prepared(root, dict(records.pop())) if records else Prepared(root)
