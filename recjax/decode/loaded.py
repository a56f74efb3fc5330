"""A catalogue on the devices: everything of a search that changes with the catalogue, as arguments of the program.

Models with rows of items find them by item id: `ItemRows.place_V` says which row of the model belongs to an item of
the catalogue. An item without one has its codes alone, as a new item has in training. The counts of the memory move
in the same way; text vectors are those of the catalogue.
"""

import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.tasks.masked import Mim
from recjax.data.tasks.next_item import NextItem
from recjax.decode.catalogue import Catalogue
from recjax.decode.lookups import Lookups
from recjax.decode.mask_slots import MaskSlots
from recjax.decode.trie import Capacity, Trie
from recjax.models import int8, lora
from recjax.schema.model import Model
from recjax.schema.run import Eval
from recjax.sharding import mesh as mesh_lib
from recjax.sids.catalogue import Catalogue as Codes
from recjax.sids.token_space import TokenSpace, padded


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ItemRows:
  """The items of a catalogue for models that score items beside their codes, padded to a capacity.

  Attributes:
    codes_IL: int32, the codes of every item.
    place_V: int32, the model's row of every item, in as many entries as a table of items has rows; past the end of
      the table for items without one.
    num_items: int32 `[]`, the number of items.
  """

  codes_IL: jax.Array
  place_V: jax.Array
  num_items: jax.Array

  @classmethod
  def of(cls, catalogue: Catalogue, owner: Catalogue, capacity: int) -> 'ItemRows':
    """Returns the rows of a catalogue as numpy arrays.

    Args:
      catalogue: the items.
      owner: the catalogue of the model's rows.
      capacity: number of items for which the arrays have room.
    """
    codes_IL, nowhere = catalogue.dataset.sids.codes_IL, padded(owner.dataset.num_items)
    place_V = np.full(padded(capacity), nowhere, np.int32)
    place_V[: len(codes_IL)] = catalogue.places(owner, nowhere)
    codes_IL = np.pad(codes_IL, ((0, capacity - len(codes_IL)), (0, 0)))
    return cls(codes_IL, place_V, np.int32(catalogue.dataset.num_items))

  def moved(self, params: Any) -> Any:
    """Returns parameters whose rows of items are in the order of the catalogue; zeros for items without a row."""
    if 'items' not in params['tables']:
      return params
    names = [name for name in ('items', 'items' + int8.SCALE) if name in params['tables']]
    rows = {name: params['tables'][name] for name in names}
    take = functools.partial(jnp.take, indices=self.place_V, axis=0, mode='fill', fill_value=0)
    return {**params, 'tables': {**params['tables'], **jax.tree.map(take, rows)}}

  def space(self, space: TokenSpace, trie: Trie) -> TokenSpace:
    """Returns the token space with this catalogue in place of that of training."""
    return dataclasses.replace(space, catalogue=_Codes(self, trie))


class _Codes(Codes):
  """The items by their codes as arguments of a program; see `Codes`."""

  def __init__(self, rows: ItemRows, trie: Trie):
    self.codes_IL, self.codes_per_level = rows.codes_IL, trie.codes_per_level
    self.exists_I = jnp.arange(len(rows.codes_IL)) < rows.num_items
    self._trie = trie

  def find(self, codes: jax.Array) -> jax.Array:
    return self._trie.find(codes)


def merged(
  graph: Any, model: Model, space: TokenSpace, params: Any, trie: Trie, items: ItemRows | None
) -> Any:
  """Returns the model with its parameters, inside a program.

  Args:
    graph: of `models.graph`.
    model: the model of the run.
    space: its token space.
    params: the parameters.
    trie: the semantic IDs of the catalogue.
    items: the items of the catalogue. None: those of training.
  """
  params = params if items is None else items.moved(params)
  found = int8.merge(graph, lora.merge(params, model.lora_alpha))
  if items is not None:
    found.tables.space = items.space(space, trie)
  return found


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
  """A catalogue on the devices.

  Attributes:
    catalogue: the catalogue.
    corpus: its items as tokens, for prompts.
    lookups: what is looked up about its items. None: nothing is, because the search continues another task than the
      next item.
    trie: its semantic IDs; large arrays are divided over the mesh axis `tensor`.
    items: its items for models that score items beside their codes. None: those of training are constants.
    mesh: the devices.
  """

  catalogue: Catalogue
  corpus: Corpus
  lookups: Lookups | None
  trie: Trie
  items: ItemRows | None
  mesh: jax.sharding.Mesh

  @functools.cached_property
  def slots(self) -> MaskSlots:
    """The masks on the devices; a catalogue that serves no masks takes no memory for them."""
    return MaskSlots(self.trie, self.mesh, self.catalogue.masks.all)


class Loader:
  """Loads catalogues for the searches of a ranker.

  Attributes:
    first: the catalogue of the ranker's data set.
    longest: the largest number of tokens of a prompt.
  """

  def __init__(
    self,
    component: NextItem | Mim,
    model: Model,
    settings: Eval,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    room: float | None = None,
    masks: epath.PathLike | None = None,
  ):
    """Loads the catalogue of a data set; see `Ranker` for the arguments."""
    self._task, self._model, self._mesh, self._room = component, model, mesh, room
    self._ranks_first = settings.shared_sids == 'first'
    self._trained, self._capacity, self._lookups = Catalogue(dataset, masks), None, None
    if isinstance(component, NextItem):
      shares = dataset.sids.sharing_items if room is None else dataset.sids.collisions == 'keep'
      # A lookup may know others of a semantic ID than the one item that is ranked.
      self._lookups = Lookups(settings, dataset, adds=not (self._ranks_first and shares))
    self.first = self.load(self._trained)
    self.longest = component.max_prompt_length(self.first.corpus)

  def load(self, catalogue: Catalogue) -> Loaded:
    """Puts a catalogue on the devices. Calls of `Ranker.rank` may name it, or it takes the place of `Ranker.loaded`.

    Raises:
      ValueError: it is not of the token space of the model, or does not fit the capacity of the search.
    """
    sids, is_first = catalogue.dataset.sids, catalogue is self._trained
    of = getattr(self._task, 'corpus_of', Corpus.of)  # a component may have tokens of its own
    corpus = of(catalogue.dataset, models.family(self._model))
    if not is_first:
      self._check(catalogue, corpus)
    trie = Trie.from_table(sids, catalogue.popularity_I, self._ranks_first)
    lookups, items = self._lookups, None
    if self._room is not None:
      if is_first:
        self._capacity = Capacity.of(trie, sids.collisions == 'keep', self._room)
      trie = trie.padded(self._capacity)
      items = ItemRows.of(catalogue, self._trained, self._capacity.items)
    if lookups is not None and not is_first:
      place_I = catalogue.places(self._trained, self._trained.dataset.num_items)
      lookups = lookups.moved(place_I, catalogue.dataset)
    arrays = jax.tree.map(np.asarray, (trie, items))
    shardings = jax.tree.map(lambda x: mesh_lib.index_sharding(x, self._mesh), arrays)
    return Loaded(catalogue, corpus, lookups, *jax.device_put(arrays, shardings), self._mesh)

  def _check(self, catalogue: Catalogue, corpus: Corpus) -> None:
    if self._room is None:
      raise ValueError('a search must have a capacity to take another catalogue; set room')
    self._trained.check_fits(catalogue)
    if (length := self._task.max_prompt_length(corpus)) > self.longest:
      raise ValueError(
        f'prompts of a catalogue must have at most {self.longest} tokens, those of the running search; those of '
        f'{catalogue.dataset.folder} have up to {length}. Start again with it'
      )
