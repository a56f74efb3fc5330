"""Checkpoints: parameters, optimizer, and where the run stands, saved asynchronously by Orbax."""

from collections.abc import Callable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import os
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from recjax import config as config_lib
from recjax.data.dataset import Dataset
from recjax.models import lora
from recjax.runtime import distributed
from recjax.sharding import mesh as mesh_lib
from recjax.training import optim
from recjax.training.state import TrainState
from recjax.workdir.checkpoint_folder import CheckpointFolder

METRIC = 'ndcg@10'  # of the validation sample; chooses the best checkpoint

_ADAPTERS = ('lora_rank', 'lora_alpha', 'lora_targets')


@dataclasses.dataclass(frozen=True)
class Meta:
  """What a checkpoint knows beside its arrays.

  Attributes:
    examples_seen: the position in the stream.
    stream: the fingerprint of the stream, part by part; a resume is bound to it.
    code_space: the hash of (levels, codes a level, quantizer); a model is bound to it.
    evaluations: [step, metrics] of every evaluation so far.
    config: the config of the run.
  """

  examples_seen: int
  stream: dict[str, str]
  code_space: str
  evaluations: list[tuple[int, dict[str, float]]]
  config: dict[str, Any]


class Checkpoints:
  """The checkpoints of one workdir: the newest ones and the best one are kept.

  Only whole ones are used: a damaged one is named in a log line, and the next in order takes its place.
  """

  def __init__(self, workdir: epath.PathLike, max_to_keep: int = 1, read_only: bool = False):
    path = epath.Path(workdir) / 'checkpoints'
    if '://' not in os.fspath(path):
      path = path.absolute()  # Orbax takes no relative path
    self.folder = path
    self._folder = CheckpointFolder(path, max_to_keep, read_only)
    self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
    self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: tuple[int, futures.Future] | None = None

  @property
  def steps(self) -> list[int]:
    """Those that are kept; whether they are whole is not looked at."""
    return self._folder.steps

  def latest_step(self) -> int | None:
    """The newest step that is whole; None where nothing was ever saved.

    Raises:
      ValueError: there were checkpoints, and none is whole.
    """
    self.wait()
    return self._folder.newest()

  def best_step(self) -> int | None:
    """The evaluated step with the best METRIC, or the newest where none was evaluated."""
    self.wait()
    return self._folder.best()

  def save(
    self, step: int, state: TrainState, meta: Meta, metrics: dict[str, float] | None
  ) -> None:
    """Starts an asynchronous save; what was being written before is waited for.

    The item `params` is what is evaluated and exported. Where parameters are averaged that is the average,
    and the optimizer's state holds the raw ones in its place.

    Raises:
      OSError: this checkpoint or the one before could not be written.
    """
    self.wait()
    params, opt_state = optim.swap_average(state.params, state.opt_state)
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(params),
      train=ocp.args.StandardSave({'step': state.step, 'opt_state': opt_state}),
      meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
    )
    with self._naming_the_folder(step):
      if distributed.is_host0():
        self.folder.mkdir(parents=True, exist_ok=True)
      self._orbax.save(self.folder / str(step), args=items, force=True)
    score = None if metrics is None else metrics[METRIC]
    self._saving = step, self._thread.submit(self._commit, step, score)

  def score(self, step: int, metrics: dict[str, float]) -> None:
    """Gives its score to a checkpoint that was saved without one."""
    self.wait()
    self._folder.score(step, metrics[METRIC])

  def was_removed(self, step: int) -> bool:
    """Whether the run, which trains on, has removed a checkpoint that was to be read here."""
    return self._folder.was_removed(step)

  def meta(self, step: int) -> Meta:
    return Meta(**self._restore(step, meta=ocp.args.JsonRestore()).meta)

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """The whole state, onto the shardings of an abstract target."""
    target = {'step': abstract.step, 'opt_state': abstract.opt_state}
    restored = self._restore(
      step,
      params=ocp.args.StandardRestore(abstract.params),
      train=ocp.args.StandardRestore(target),
    )
    params, opt_state = optim.swap_average(restored.params, restored.train['opt_state'])
    return TrainState(restored.train['step'], params, opt_state)

  def restore_params(self, step: int, abstract_params: Any) -> Any:
    """The parameters alone: for evaluation, recommending and `init_from`."""
    return self._restore(step, params=ocp.args.StandardRestore(abstract_params)).params

  def check(self) -> None:
    """Raises the OSError of a save that failed in the meantime; does not wait."""
    if self._saving is not None and self._saving[1].done():
      self.wait()

  def wait(self) -> None:
    """Waits until nothing is being written.

    Raises:
      OSError: the checkpoint could not be written.
    """
    if self._saving is not None:
      (step, saving), self._saving = self._saving, None
      with self._naming_the_folder(step):
        saving.result()

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._orbax.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _commit(self, step: int, score: float | None) -> None:
    self._orbax.wait_until_finished()
    self._folder.commit(step, score)

  def _restore(self, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    self.wait()
    self._folder.check_whole(step)
    return self._orbax.restore(self.folder / str(step), args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _naming_the_folder(self, step: int) -> Iterator[None]:
    try:
      yield
    except TimeoutError:  # the others did not come; it says who
      raise
    except Exception as error:
      raise OSError(
        f'checkpoint {step} could not be written in {self.folder}: {error}. Those before it are untouched; '
        'make room there or mend it, then start the same command again'
      ) from error


def read_run(
  workdir: epath.PathLike,
  choose: Callable[[Checkpoints], int],
  read: Callable[[Checkpoints, int], Any],
) -> Any:
  """What `read` makes of the chosen step of a run, which may be training: one that it removes is chosen anew."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    while True:
      step = choose(checkpoints)
      try:
        return read(checkpoints, step)
      except (OSError, ValueError):
        if not checkpoints.was_removed(step):
          raise


def check_tokens(meta: Meta, dataset: Dataset, folder: epath.Path) -> None:
  """Raises a ValueError where a checkpoint's model speaks other codes or pieces than the data set."""
  where = (
    'Set --config.data.prepared_dir to the data that it was trained on, or to data that were prepared '
    'with --config.sids.extend=<that folder>'
  )
  code_space = dataset.sids.code_space_hash
  if meta.code_space != code_space:
    raise ValueError(
      f'the model in {folder} must be used with SIDs of its own code space {meta.code_space}; the '
      f'prepared data in {dataset.folder} have {code_space}. {where}'
    )
  if meta.stream['tokenizer'] != dataset.files_digest('tokenizer'):
    raise ValueError(
      f'the model in {folder} must be used with its own tokenizer; the prepared data in '
      f'{dataset.folder} have another. {where}'
    )


def check_stream(
  meta: Meta, stream: dict[str, str], folder: epath.Path, allow_new_stream: bool
) -> bool:
  """Whether a resume continues the same stream; False: it was told to begin a new one.

  Raises:
    ValueError: the stream changed and `checkpoint.allow_new_stream` is not set.
  """
  changed = sorted(part for part in stream if stream[part] != meta.stream.get(part))
  if changed and not allow_new_stream:
    raise ValueError(
      f'a resume must continue the stream of examples that the checkpoints in {folder} were trained '
      f'on; changed since: {", ".join(changed)}. Undo the change, give a new --workdir (with '
      '--config.checkpoint.init_from to keep the parameters), or set '
      '--config.checkpoint.allow_new_stream=True to begin a new stream deliberately'
    )
  return not changed


def check_optimizer(meta: Meta, optim: config_lib.Optim, folder: epath.Path) -> None:
  """Raises a ValueError where the state of a checkpoint's optimizer would not fit today's."""
  now = dataclasses.asdict(optim)
  for name in ('optimizer', 'ema_decay', 'groups'):
    old = meta.config['optim'].get(name)
    if old != now[name]:
      raise ValueError(
        f'a resume must keep optim.{name} of the checkpoints in {folder}: {old!r}; got {now[name]!r}. '
        f'Set --config.optim.{name}, or give a new --workdir with --config.checkpoint.init_from'
      )


def _of_source(abstract_params: Any, source: dict[str, Any]) -> Any:
  """What the checkpoint of a run with the model config `source` holds, in today's shards."""
  abstract = lora.base(abstract_params)
  rank = source.get('lora_rank', 0)
  if rank == 0:
    return abstract
  shapes = jax.eval_shape(
    lambda params: {lora.NAME: lora.init(jax.random.key(0), params, rank, source['lora_targets'])},
    abstract,
  )
  shardings = mesh_lib.tree_shardings(shapes, jax.tree.leaves(abstract)[0].sharding.mesh)
  adapters = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )
  return abstract | adapters


def initial_params(
  config: config_lib.Config, abstract_params: Any, dataset: Dataset
) -> dict[str, Any] | None:
  """The best parameters of the workdir `checkpoint.init_from`, or None where it is not set.

  Adapters of the same rank, alpha and targets are continued; any others are merged into the model, and the
  result has none.

  Raises:
    ValueError: no checkpoint there, or one of another code space or tokenizer.
  """
  source = config.checkpoint.init_from
  if source is None:
    return None
  folder = epath.Path(source) / 'checkpoints'
  if not folder.exists():
    raise ValueError(
      f'checkpoint.init_from must be the workdir of a run; {folder} does not exist. '
      'Set --config.checkpoint.init_from'
    )

  def choose(checkpoints: Checkpoints) -> int:
    last = config.checkpoint.init_from_last
    step = checkpoints.latest_step() if last else checkpoints.best_step()
    if step is None:
      raise ValueError(
        f'checkpoint.init_from must hold a checkpoint; {folder} has none. '
        'Set --config.checkpoint.init_from'
      )
    return step

  def read(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    meta = checkpoints.meta(step)
    check_tokens(meta, dataset, folder)
    model = meta.config['model']
    params = checkpoints.restore_params(step, _of_source(abstract_params, model))
    same = all(model.get(name) == getattr(config.model, name) for name in _ADAPTERS)
    if lora.NAME in params and not same:
      shardings = jax.tree.map(lambda x: x.sharding, lora.base(abstract_params))
      params = jax.jit(lora.merge, out_shardings=shardings)(params, model['lora_alpha'])
    return jax.block_until_ready(params)

  return read_run(source, choose, read)
