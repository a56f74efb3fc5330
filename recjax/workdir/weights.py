"""The weights of the scores that rank the items of a finished run: given, or chosen by one of its evaluations."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from recjax.config import Config
from recjax.decode.blend import Weights
from recjax.metrics import weights as weights_lib
from recjax.schema.blend import NONE, Blend, Memory, Text
from recjax.schema.run import Eval
from recjax.workdir import evaluation_file
from recjax.workdir.checkpoints import Checkpoints


def recorded(config: Config, workdir: epath.Path, step: int) -> Weights:
  """Returns the weights of a checkpoint, so that recommendations have the order of its evaluation.

  Those in evaluation.json, chosen on all validation rows, come first; then those of the evaluation during training,
  in the checkpoint itself.

  Args:
    config: config of the run.
    workdir: its workdir.
    step: step of the checkpoint.

  Raises:
    ValueError: they are not given, and no evaluation with the same settings has chosen them.
  """
  settings = config.eval
  is_used = {
    'head': config.model.item_head,
    'memory': settings.memory.counts != NONE,
    'text': settings.text.vectors != NONE,
  }
  given = {name: getattr(settings.blend, name) if used else 0.0 for name, used in is_used.items()}
  if None not in given.values():
    return Weights(**given)
  found = _of_evaluation(settings, workdir, step) or _of_checkpoint(settings, workdir, step)
  if found is None:
    unknown = ' and '.join(f'--config.eval.blend.{name}' for name in given if given[name] is None)
    raise ValueError(
      f'{workdir} must hold the weights of the scores of step {step} under its eval settings; no evaluation has chosen '
      f'them. Run --mode=evaluate on that --workdir first, or set {unknown}'
    )
  return found


def _of_evaluation(settings: Eval, workdir: epath.Path, step: int) -> Weights | None:
  if not (workdir / evaluation_file.FILE).exists():
    return None
  results = evaluation_file.read(workdir)
  blend = results.get('blend')
  if blend is None or results['step'] != step or not _is_same(results.get('eval', {}), settings):
    return None
  return Weights(blend['head'], blend['memory'], blend.get('text', 0.0))  # old ones have no text


def _of_checkpoint(settings: Eval, workdir: epath.Path, step: int) -> Weights | None:
  with Checkpoints(workdir, read_only=True) as checkpoints:
    meta = checkpoints.meta(step)
  metrics = dict(map(tuple, meta.evaluations)).get(step, {})
  return weights_lib.of_metrics(metrics) if _is_same(meta.config['eval'], settings) else None


def _is_same(evaluated: Mapping[str, Any], settings: Eval) -> bool:
  """Returns whether an evaluation had the same scores and the same given weights."""
  sections = {'memory': Memory, 'text': Text, 'blend': Blend}
  return all(
    kind(**evaluated.get(name, {})) == getattr(settings, name) for name, kind in sections.items()
  )
