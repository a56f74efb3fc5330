"""The teacher of a stage of kind grpo: an earlier run of SASRec, which scores the items of the groups."""

import dataclasses
from typing import Any

from etils import epath
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from recjax import models
from recjax.data.corpus import Corpus
from recjax.data.dataset import Dataset
from recjax.data.prompt_stream import Observer, leaves
from recjax.decode.beam import log_probs
from recjax.models import lora
from recjax.schema.checks import check
from recjax.schema.run import Training
from recjax.training.start import best_params
from recjax.workdir.checkpoints import Checkpoints
from recjax.workdir.sasrec import finished


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A run of SASRec over the interactions of this run.

  Attributes:
    config: its config.
    dataset: its data, one token an item.
    observer: its prompts for the histories of the stream.
    workdir: its folder.
  """

  config: Training
  dataset: Dataset
  observer: Observer
  workdir: str

  @classmethod
  def of(cls, workdir: str, dataset: Dataset) -> 'Teacher':
    """Returns the teacher in a workdir; the raw ids of the items relate its data to those of this run.

    Raises:
      OSError, ValueError: it is no run of SASRec over the interactions of this run, or has another catalogue.
    """
    config, data, component = finished(workdir, dataset, 'stages.<name>.grpo.teacher')
    index = {item['id']: n for n, item in enumerate(data.items)}
    items_I = np.array([index[item['id']] for item in dataset.items], np.int32)
    corpus = Corpus.of(data, models.family(config.model))
    return cls(config, data, Observer(corpus, component, items_I), workdir)

  def check_trained(self) -> None:
    """Raises a ValueError if the run has no checkpoint; without this check it would come when the stage begins."""
    field = 'stages.<name>.grpo.teacher'
    with Checkpoints(epath.Path(self.workdir), read_only=True) as checkpoints:
      must = f'{field} must be a run that was trained; it has no checkpoint'
      check(checkpoints.latest_step() is not None, must, self.workdir, field)

  def params(self, mesh: jax.sharding.Mesh) -> Any:
    """Returns the parameters of its best checkpoint, on a mesh."""
    return best_params(self.config, epath.Path(self.workdir), self.dataset, mesh)[0]

  def scores(self, dataset: Dataset):
    """Returns the pure function (params, batch, choices_BM) → log-probabilities of their items, float32 `[B, M]`.

    The item of a semantic ID that several items share is the one with most training interactions.

    Args:
      dataset: the data of this run, which number the choices.
    """
    of_item_I = leaves(dataset)[1]
    popularity_I = dataset.train.counts(dataset.num_items)
    order = np.lexsort((-popularity_I, of_item_I))
    first = np.unique(of_item_I[order], return_index=True)[1]
    codes_S = self.dataset.sids.codes_IL[self.observer.items_I[order[first]], 0]
    model = self.config.model
    graph = models.graph(model, self.dataset.vocabulary.space)

    def scores(params, batch: dict[str, jax.Array], choices_BM: jax.Array) -> jax.Array:
      merged = nnx.merge(graph, lora.merge(params, model.lora_alpha))
      prompts = {name: batch[f'observer_{name}'] for name in ('tokens', 'lengths')}
      x_BD = merged.start(prompts, 1, 1)[0]
      scores_BC = log_probs(merged, x_BD[:, None], 0, model.sid_softmax)[:, 0]
      return jnp.take_along_axis(scores_BC, jnp.take(jnp.asarray(codes_S), choices_BM), axis=1)

    return scores
