"""Writes the export of a run: a folder for `transformers`, with prompts, catalogue and a script that recommends."""

from collections.abc import Callable
import contextlib
import logging
import tempfile
from typing import Any

from etils import epath

from recjax import models
from recjax.config import Config
from recjax.data import vocabulary
from recjax.data.dataset import Dataset
from recjax.models import lora, pretrained
from recjax.models.pretrained import IdMap, Pretrained
from recjax.workdir.export import files

log = logging.getLogger(__name__)


def check(out: str, config: Config, dataset: Dataset) -> None:
  """Checks an export before parameters are restored.

  Raises:
    OSError, ValueError: see `pretrained.check_export`; or the run has no model or no tokenizer that `transformers`
      knows.
  """
  if config.model.pretrained is not None:
    space = dataset.vocabulary.space
    pretrained.check_export(out, config.model.pretrained, space, vocabulary.SPECIALS)
    return
  pretrained.check_out(out)
  family = models.family(config.model)
  if family.checkpoints is None:
    raise ValueError(
      f'an export must be a model that transformers knows; the family {family.name} is none of them. Use '
      '--format=bundle, or train another --config.model.family'
    )
  with tempfile.TemporaryDirectory() as folder:
    _write_scratch_tokenizer(dataset, epath.Path(folder))
  _scratch(config, dataset)


def _write_scratch_tokenizer(dataset: Dataset, folder: epath.Path) -> None:
  """Writes the tokenizer of a run from scratch as `transformers` reads it."""
  words = dataset.vocabulary
  pretrained.write_tokenizer(words.file, folder, words.bos_id, words.eos_id)


def _scratch(config: Config, dataset: Dataset) -> Pretrained:
  """Returns family and shape of a run from scratch."""
  family, words = models.family(config.model), dataset.vocabulary
  shape = models.shape_of(config.model)
  return pretrained.described(family, shape, words.space.size, words.bos_id, words.eos_id)


def write(out: str, config: Config, dataset: Dataset, params: Any) -> None:
  """Writes the folder; it is whole or absent. Every process must call it.

  Args:
    out: a new or empty folder.
    config: config of the run.
    dataset: the prepared data.
    params: parameters of the model; adapters are merged.
  """
  write_model(out, config, dataset, lora.merge(params, config.model.lora_alpha))
  if others := files.other_scores(config):
    log.warning(
      'the exported folder ranks by the codes alone; %s of the run stay behind. --format=bundle keeps them',
      ' and '.join(others),
    )
  log.info('exported to %s: python %s/%s --help', out, out, files.SCRIPT)
  if config.model.sid_softmax == 'level':
    log.info(files.NOTE)


def write_model(
  out: str,
  config: Config,
  dataset: Dataset,
  params: Any,
  add: Callable[[epath.Path], None] | None = None,
) -> None:
  """Writes the model, the tokenizer, the files of `files` and the scripts; see `write`.

  Args:
    out, config, dataset: as in `write`.
    params: parameters of the model, adapters merged.
    add: writes more files into the folder before it gets its name; called on process 0.
  """
  source, found, size = None, None, None

  def more(folder: epath.Path, ids: IdMap) -> None:
    files.write(folder, ids, config, dataset)
    files.write_scripts(folder, files.SCRIPTS)
    if add is not None:
      add(folder)

  with contextlib.ExitStack() as stack:
    if config.model.pretrained is not None:
      source = pretrained.path(config.model.pretrained)
    else:
      source = epath.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      _write_scratch_tokenizer(dataset, source)
      found, size = _scratch(config, dataset), dataset.vocabulary.num_pieces
    pretrained.export(
      *(out, params, dataset.vocabulary.space, source, vocabulary.SPECIALS),
      tokenizer_size=size,
      found=found,
      add=more,
    )
