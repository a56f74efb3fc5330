"""Checkpoints: parameters, optimizer, and where the run stands, saved asynchronously by Orbax."""

import dataclasses
import os
from typing import Any

from etils import epath
import jax
import orbax.checkpoint as ocp

from recjax import config as config_lib
from recjax import lora, optim, sharding
from recjax.state import TrainState

METRIC = 'ndcg@10'  # of the validation sample; chooses the best checkpoint

_ADAPTERS = ('lora_rank', 'lora_alpha', 'lora_targets')

_managers = ocp.checkpoint_managers


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
  """The checkpoints of one workdir: the newest ones and the best one are kept."""

  def __init__(self, workdir: epath.PathLike, max_to_keep: int = 1, read_only: bool = False):
    folder = epath.Path(workdir) / 'checkpoints'
    if '://' not in os.fspath(folder):
      folder = folder.absolute()  # Orbax takes no relative path
    keep = _managers.AnyPreservationPolicy(
      [
        _managers.LatestN(max_to_keep),
        _managers.BestN(
          get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
        ),
      ]
    )
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      best_fn=lambda metrics: metrics[METRIC],
      read_only=read_only,
      create=not read_only,
      enable_async_checkpointing=not read_only,
    )
    self.folder = folder
    self._manager = ocp.CheckpointManager(folder, options=options)

  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The evaluated step with the best METRIC, or the newest where none was evaluated."""
    best = self._manager.best_step()
    return self.latest_step() if best is None else best

  def save(
    self, step: int, state: TrainState, meta: Meta, metrics: dict[str, float] | None
  ) -> None:
    """Starts an asynchronous save; what was being written before is waited for.

    The item `params` is what is evaluated and exported. Where parameters are averaged that is the average,
    and the optimizer's state holds the raw ones in its place.
    """
    params, opt_state = optim.swap_average(state.params, state.opt_state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        train=ocp.args.StandardSave({'step': state.step, 'opt_state': opt_state}),
        meta=ocp.args.JsonSave(dataclasses.asdict(meta)),
      ),
      metrics=metrics,
    )

  def meta(self, step: int) -> Meta:
    restored = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
    return Meta(**restored.meta)

  def restore(self, step: int, abstract: TrainState) -> TrainState:
    """The whole state, onto the shardings of an abstract target."""
    target = {'step': abstract.step, 'opt_state': abstract.opt_state}
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params), train=ocp.args.StandardRestore(target)
      ),
    )
    params, opt_state = optim.swap_average(restored.params, restored.train['opt_state'])
    return TrainState(restored.train['step'], params, opt_state)

  def restore_params(self, step: int, abstract_params: Any) -> Any:
    """The parameters alone: for evaluation, recommending and `init_from`."""
    args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params))
    return self._manager.restore(step, args=args).params

  def wait(self) -> None:
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def check_code_space(meta: Meta, code_space: str, folder: epath.Path) -> None:
  """Raises a ValueError where a checkpoint's model speaks other codes than the data set."""
  if meta.code_space != code_space:
    raise ValueError(
      f'the model in {folder} must be used with SIDs of its own code space {meta.code_space}; the '
      f'prepared data have {code_space}. Set --config.data.prepared_dir to data with that code space'
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
  shardings = sharding.tree_shardings(shapes, jax.tree.leaves(abstract)[0].sharding.mesh)
  adapters = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
  )
  return abstract | adapters


def initial_params(
  config: config_lib.Config, abstract_params: Any, code_space: str
) -> dict[str, Any] | None:
  """The best parameters of the workdir `checkpoint.init_from`, or None where it is not set.

  Adapters of the same rank, alpha and targets are continued; any others are merged into the model, and the
  result has none.

  Raises:
    ValueError: no checkpoint there, or one of another code space.
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
  with Checkpoints(source, read_only=True) as checkpoints:
    last = config.checkpoint.init_from_last
    step = checkpoints.latest_step() if last else checkpoints.best_step()
    if step is None:
      raise ValueError(
        f'checkpoint.init_from must hold a checkpoint; {folder} has none. '
        'Set --config.checkpoint.init_from'
      )
    meta = checkpoints.meta(step)
    check_code_space(meta, code_space, folder)
    model = meta.config['model']
    params = checkpoints.restore_params(step, _of_source(abstract_params, model))
    same = all(model.get(name) == getattr(config.model, name) for name in _ADAPTERS)
    if lora.NAME in params and not same:
      shardings = jax.tree.map(lambda x: x.sharding, lora.base(abstract_params))
      params = jax.jit(lora.merge, out_shardings=shardings)(params, model['lora_alpha'])
    return jax.block_until_ready(params)
