"""Starts the service of a run."""

from etils import epath
import jax

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.recommend import Recommender
from recjax.runtime import device
from recjax.serve import server
from recjax.serve.engine import Engine
from recjax.workdir.serving import Serving

# Beam rows of a wave. On CPUs larger waves have the same time a request, and one request waits for a whole wave.
_MAX_WAVE = {'cpu': 512}
_MAX_WAVE_DEVICE = 4096


def serve(
  config: Config,
  workdir: epath.Path,
  dataset: Dataset,
  mesh: jax.sharding.Mesh,
  serving: Serving,
  masks: str | None = None,
) -> None:
  """Serves the best checkpoint of a run until SIGTERM or Ctrl-C; see `recjax.serve.server.serve`.

  Raises:
    ValueError: the run has several processes; see also `recjax.recommend.best_ranker`.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f'--mode=serve must run in one process; got {jax.process_count()}. Start one service a host, behind a balancer'
    )

  device.set_library_cache(workdir)  # a restart compiles nothing again
  max_wave = serving.max_wave or _MAX_WAVE.get(jax.default_backend(), _MAX_WAVE_DEVICE)

  def load() -> Engine:
    beams = serving.beams[0] if serving.beams else None
    recommender = Recommender.of_run(
      config, workdir, dataset, mesh, beams, masks, room=serving.room
    )
    engine = Engine(recommender, dataset, max_wave, config.eval.batch_size, serving.beams, masks)
    engine.warm()
    return engine

  server.serve(load, serving)
