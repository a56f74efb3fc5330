"""Encodes one share of the item texts; several machines with the same prepared folder do the work of one.

Command, on machine N of M:  python -m data_prep.encode --config=… --process=N --processes=M   (N from 0)

First runs the stage of the log, or waits for the machine that runs it. Each process stores its vectors in the prepared
folder, once a minute, and continues after a kill. When all have ended, `--mode=prepare` on one machine reads them,
computes what is missing, and writes the stage with its one manifest, with the bytes of a single process.
"""

import logging
import sys

from absl import app, flags

from data_prep import prepare
from data_prep import stage as stage_lib
from data_prep.encoders import stage as encoder_stage
from recjax import config as config_lib
from recjax.runtime import logs
from recjax.schema import flag as config_flag
from recjax.workdir import identity

_CONFIG = config_flag.define(identity.read_config_dict)
_PROCESS = flags.DEFINE_integer('process', 0, 'Number of this process, from 0.')
_PROCESSES = flags.DEFINE_integer('processes', 1, 'Number of processes.')

log = logging.getLogger(__name__)


def run(config: config_lib.Config, process: int, processes: int) -> None:
  """Prepares the log if needed, and encodes a share of its items; see `encoders.stage.encode_share`.

  Raises:
    ValueError: there is no such process; or see `encode_share`.
  """
  if not 0 <= process < processes:
    raise ValueError(
      f'--process must be at least 0 and below --processes={processes}; got {process}. Set --process'
    )
  config = encoder_stage.resolved(config)
  folder = stage_lib.Folder(config.prepared_folder)
  folder.prepared.folders.update(prepare.prepare_log(config).folders)
  if folder.find(encoder_stage.stage(config, folder.prepared)):
    log.info('the vectors of this encoder are in %s; nothing is encoded', folder.prepared)
    return
  encoder_stage.encode_share(config, folder.prepared, process, processes)
  log.info(
    'share %d of %d is stored. When all are, run recjax.main --mode=prepare', process, processes
  )


def main(_) -> None:
  logs.set_up()
  try:
    if _CONFIG.value is None:
      raise ValueError('--config must be given, such as --config=recjax:demo')
    run(config_lib.from_config_dict(_CONFIG.value), _PROCESS.value, _PROCESSES.value)
  except (ValueError, OSError) as error:
    sys.exit(f'{type(error).__name__}: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=config_flag.parse_flags)
