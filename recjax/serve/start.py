"""Starts the service of a run."""

from etils import epath
import jax

from recjax.config import Config
from recjax.data.dataset import Dataset
from recjax.decode import prompt_store
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
    ValueError: the run has several processes, or its prompts cannot be kept; see also `recjax.recommend.best_ranker`.
  """
  if jax.process_count() > 1:
    raise ValueError(
      f'--mode=serve must run in one process; got {jax.process_count()}. Start one service a host, behind a balancer'
    )
  _check_prompts(config, mesh, serving.keep_prompts)

  device.set_library_cache(workdir)  # a restart compiles nothing again
  max_wave = serving.max_wave or _MAX_WAVE.get(jax.default_backend(), _MAX_WAVE_DEVICE)

  def load() -> Engine:
    beams = serving.beams[0] if serving.beams else None
    recommender = Recommender.of_run(
      config, workdir, dataset, mesh, beams, masks, room=serving.room
    )
    options = (serving.beams, masks, serving.warm, serving.keep_prompts)
    engine = Engine(recommender, dataset, max_wave, config.eval.batch_size, *options)
    engine.warm()
    return engine

  server.serve(load, serving)


def _check_prompts(config: Config, mesh: jax.sharding.Mesh, limit: int) -> None:
  """Raises a ValueError if prompts cannot be kept in so many bytes."""
  if not limit:
    return
  if reason := prompt_store.unsupported(config.model, mesh):
    raise ValueError(
      f'--keep_prompts needs a model whose prompts can be kept; {reason}. Leave it out'
    )
  most = device.memory()
  if most is not None and limit > most:
    raise ValueError(
      f'--keep_prompts must be less than the memory of the device, {most:,} bytes; got {limit:,}'
    )
