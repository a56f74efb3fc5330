"""The part `cut` of `bench.decode`: the search that skips beams beside the one that does not, in turns.

A search can skip beams only if the scores are peaked, as those of a trained model are. So there are three rows for every
number of beams: random weights, random weights with the rows of the codes multiplied by PEAK, and with --workdir the
best checkpoint of a run over test histories, ranked by the codes alone.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from bench.decode_sides import Shapes, Side, World, turns
from recjax.data.dataset import Dataset
from recjax.recommend import best_params, make_ranker
from recjax.schema import blend
from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.workdir import identity

RETURNED = 10  # items of a search
PEAK = 8.0


class Trained:
  """A run, whose searches are sides."""

  def __init__(self, workdir: str):
    folder, self._mesh = epath.Path(workdir), mesh_lib.make_mesh(Mesh(data=1), jax.devices()[:1])
    config = identity.required_config(folder)
    self._dataset = Dataset.load(config.prepared_folder)
    self._params, _ = best_params(config, folder, self._dataset, self._mesh)
    plain = {'memory': blend.Memory(), 'text': blend.Text(), 'blend': blend.Blend()}
    settings = dataclasses.replace(config.eval, ks=(RETURNED,), beams=RETURNED, **plain)
    model = dataclasses.replace(config.model, item_head=False)
    self._config = dataclasses.replace(config, eval=settings, model=model)
    self.num_items = self._dataset.num_items
    self.histories, _ = self._dataset.histories_and_targets('test')

  def side(self, shapes: Shapes, cuts: bool) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """Returns the search for `shapes.users` histories."""
    options = {'beam_widths': (shapes.beams,), 'beam_cut': cuts, 'batch_size': shapes.users}
    settings = dataclasses.replace(self._config.eval, **options)
    config = dataclasses.replace(self._config, eval=settings)
    ranker = make_ranker(config, self._dataset, self._mesh)
    rows = np.random.default_rng(0).choice(len(self.histories), shapes.users, replace=False)
    histories = [np.asarray(self.histories[row]) for row in rows]

    def search():
      return ranker.rank(self._params, histories, few_shapes=True)

    search.shapes = shapes
    return search


def rows(all_shapes: Sequence[Shapes], workdir: str | None) -> Iterator[dict[str, Any]]:
  """Yields the figures of every model for all shapes."""
  world = World(all_shapes[0].items)
  for name, peak in (('random', 1.0), ('peaked', PEAK)):
    for shapes in all_shapes:
      sides = {
        'whole': Side(shapes, world, returned=RETURNED, peak=peak),
        'recjax': Side(shapes, world, returned=RETURNED, peak=peak, cuts=True),
      }
      yield _row(name, shapes, sides)
  if workdir is None:
    return
  run = Trained(workdir)
  for shapes in all_shapes:
    shapes = shapes._replace(model=workdir, items=run.num_items)
    yield _row(
      'trained', shapes, {'whole': run.side(shapes, False), 'recjax': run.side(shapes, True)}
    )


def _row(weights: str, shapes: Shapes, sides: dict[str, Any]) -> dict[str, Any]:
  (items, _), (expected, exact) = sides['recjax'](), sides['whole']()
  result = {'weights': weights, **shapes._asdict(), **turns(sides)}
  result['share_of_equal_items'] = float(np.mean(np.asarray(items) == np.asarray(expected)))
  result['score_of_last_item'] = float(np.median(np.asarray(exact)[:, -1]))
  return result
