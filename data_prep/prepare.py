"""Prepares a data set, from raw files to semantic IDs: runs the stages of a config under the folder's lock."""

from collections.abc import Iterator
import contextlib
import logging
import os

from etils import epath

from data_prep import engine, sources
from data_prep import stage as stage_lib
from data_prep.encoders import stage as encoder_stage
from data_prep.keywords import stage as keyword_stage
from data_prep.log import optimum
from data_prep.relations import stage as relation_stage
from data_prep.relations import vectors_stage
from data_prep.sids import stage as sid_stage
from data_prep.texts import stage as text_stage
from recjax import config as config_lib
from recjax.data import prepared as prepared_lib
from recjax.data.prepared import Prepared
from recjax.runtime import files as files_lib
from recjax.runtime import lock

FIELD = '--config.data.prepared_dir'

log = logging.getLogger(__name__)


def raw_dir(config: config_lib.Config) -> epath.Path:
  """Returns the folder of raw files: `data.raw_dir`, else $RECJAX_DATA/<name>, else data/raw/<name>."""
  if config.data.raw_dir is not None:
    return epath.Path(config.data.raw_dir)
  return epath.Path(os.environ.get('RECJAX_DATA') or 'data/raw') / config.data.name


def prepare(config: config_lib.Config) -> Prepared:
  """Brings every stage up to date, in order, and prints one line for each.

  A complete folder is only read. Otherwise this process takes the folder's lock, or waits for the process
  that holds it. A preparation that was killed and restarted writes the same bytes.

  Returns:
    The folders of the config's stages.

  Raises:
    FileNotFoundError: raw files are missing and `data.download` is off.
    ValueError: the raw files, the config or the prepared folder are invalid.
  """
  given, config = config, encoder_stage.resolved(config)
  encoder_stage.explain(given)
  folder, source = stage_lib.Folder(config.prepared_folder), sources.get(config.data.source)
  _check_ready(config, folder.root)
  stages = _find_all(config, folder)
  if stages is None:
    with _locked(folder):
      # Must come before the raw files are hashed. If the log is prepared, they are not needed.
      if not folder.find(engine.stage(source, config.data, raw_dir(config))):
        engine.check_ready(config.data)
        source.fetch(config.data, raw_dir(config))
      for stage in _stages(config, folder.prepared):
        folder.run(stage)
      encoder_stage.remove_parts(folder.prepared)
      _record(given, folder.prepared)
  else:
    for stage in stages:
      folder.print_found(stage)
    _record_if_free(given, folder.prepared)
  return folder.prepared


def prepare_log(config: config_lib.Config) -> Prepared:
  """Brings only the log up to date: users, items and splits, without texts, vectors and semantic IDs.

  Returns:
    The folder of the log's stage.

  Raises:
    FileNotFoundError, ValueError: see `prepare`.
  """
  folder, source = stage_lib.Folder(config.prepared_folder), sources.get(config.data.source)
  raw = raw_dir(config)
  if not folder.find(engine.stage(source, config.data, raw)):
    engine.check_ready(config.data)
    with _locked(folder):
      source.fetch(config.data, raw)
      folder.run(engine.stage(source, config.data, raw))
  return folder.prepared


@contextlib.contextmanager
def _locked(folder: stage_lib.Folder) -> Iterator[None]:
  """Holds the lock of a prepared folder, without leftovers of killed processes."""
  files_lib.check_writable(folder.root, FIELD)
  with lock.hold(folder.root, 'preparing', wait=True, field=FIELD):
    folder.recover()
    yield


def find(config: config_lib.Config) -> Prepared | None:
  """Returns the folders of the config's stages; None if `prepare` would run a stage. Changes nothing."""
  config = encoder_stage.resolved(config)
  folder = stage_lib.Folder(config.prepared_folder)
  return None if _find_all(config, folder) is None else folder.prepared


def _find_all(config: config_lib.Config, folder: stage_lib.Folder) -> list[stage_lib.Stage] | None:
  stages = []
  for stage in _stages(config, folder.prepared):
    if not folder.find(stage):
      return None
    stages.append(stage)
  return stages


def _check_ready(config: config_lib.Config, root: epath.Path) -> None:
  """Checks the settings of late stages now; otherwise their errors would come hours later."""
  sid_stage.check_ready(config, root, raw_dir(config))
  keyword_stage.check_ready(config, root, raw_dir(config))
  encoder_stage.check_ready(config, root)
  vectors_stage.check_ready(config.sids, root)
  text_stage.check_ready(config, root)


def _stages(config: config_lib.Config, prepared: Prepared) -> Iterator[stage_lib.Stage]:
  """Yields the stages that the config needs, in order.

  A stage reads outputs of earlier stages, so `prepared` must hold each stage before the next one is requested.
  """
  source, raw = sources.get(config.data.source), raw_dir(config)
  yield engine.stage(source, config.data, raw)
  config = sid_stage.with_codes(config, prepared)  # fails before the stages that take long
  relation_stage.check_top_k(config, prepared)
  relation_stage.check_texts(config, prepared)
  yield text_stage.tokenizer_stage(config, prepared)
  yield text_stage.titles_stage(config, prepared)
  if encoder_stage.is_needed(config):
    yield encoder_stage.stage(config, prepared)
  if config.sids.needs_vectors and config.sids.source != 'text':
    yield vectors_stage.stage(config.sids, prepared)
  if config.needs('collaborative') or config.needs('semantic'):
    yield relation_stage.stage(config, prepared)
  yield sid_stage.stage(config, prepared, raw)
  if config.needs('keywords'):
    yield keyword_stage.stage(config, prepared, raw)
  # The optimum is only known for complete histories.
  if source.has_optimum and not config.data.max_history:
    yield optimum.stage(source, config, prepared)


def _record(config: config_lib.Config, prepared: Prepared) -> None:
  """Records the config's stage folders, if the prepared folder holds variants."""
  record = prepared_lib.read_record(prepared.root)
  if record or any(map(stage_lib.is_variant, stage_lib.finished(prepared.root))):
    keys = record_keys(config, prepared)
    if any(record.get(key) != prepared.folders for key in keys):
      prepared_lib.write_record(prepared.root, record | dict.fromkeys(keys, prepared.folders))


def record_keys(config: config_lib.Config, prepared: Prepared) -> list[str]:
  """Returns the identities of an experiment: as it was written, and with its encoder and codes, as in a workdir."""
  configs = config, sid_stage.with_codes(encoder_stage.resolved(config), prepared)
  return [files_lib.digest(each.preparation) for each in configs]


def _record_if_free(config: config_lib.Config, prepared: Prepared) -> None:
  """Records the config's stage folders unless the folder is read-only or another process prepares it."""
  record = prepared_lib.read_record(prepared.root)
  is_recorded = all(record.get(key) == prepared.folders for key in record_keys(config, prepared))
  is_writable = not files_lib.is_local(prepared.root) or os.access(prepared.root, os.W_OK)
  if record and not is_recorded and is_writable:
    with (
      contextlib.suppress(lock.Held),
      lock.hold(prepared.root, 'preparing', wait=False, field=FIELD),
    ):
      _record(config, prepared)
