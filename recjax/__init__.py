"""recjax fine-tunes language models into generative recommenders. `load` opens a trained one."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from recjax.recommend import Recommender


def load(
  workdir: str | os.PathLike[str],
  beams: int | None = None,
  prepared_dir: str | os.PathLike[str] | None = None,
  masks: str | os.PathLike[str] | None = None,
  room: float | None = None,
) -> 'Recommender':
  """Returns the recommender of a run; see `recjax.recommend.Recommender.from_workdir`."""
  from recjax.recommend import Recommender  # here: `import recjax` takes no time

  return Recommender.from_workdir(workdir, beams, prepared_dir, masks, room)
