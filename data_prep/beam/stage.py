"""The `interactions` stage on Apache Beam: a folder of parts, the pipelines, and the files by the local writer."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import tempfile
from typing import Any

from etils import epath

from data_prep import stage as stage_lib
from data_prep.beam import options, tasks
from data_prep.beam.job import Job, code_digest, identity
from data_prep.beam.log import Preparation
from data_prep.beam.parts import Work
from data_prep.beam.phases import Phases
from data_prep.log import item_text, log_writer
from data_prep.sources.base import Source
from recjax.runtime import files as files_lib


def write(
  stage: stage_lib.Stage, data: Source, raw_dir: epath.Path, out: epath.Path
) -> dict[str, Any]:
  """Writes the files of the stage; returns its summary.

  Args:
    stage: the stage; its inputs and params identify the parts.
    data: the data section.
    raw_dir: folder of the raw files.
    out: an empty folder beside the finished stages.

  Raises:
    ValueError, FileNotFoundError: as by the local engine; or a worker has other code or settings.
    RuntimeError: a pipeline failed.
  """
  beam_options = options.parse(data.beam_options)
  digest = identity(stage.params, stage.inputs)
  folder = _folder(out.parent, stage.name, digest)
  work = Work(_absolute(folder), digest)
  job = Job(data, _absolute(raw_dir), work, code_digest())
  job.start()
  with _local_folder(folder) as local:
    log, arrays, records = Preparation(job, Phases(job, beam_options), local).run()
    if identity(stage.params, stage.inputs) != digest:
      raise ValueError(
        f'the files in {raw_dir} must not change while they are prepared; some did. Run the command again'
      )
    summary = log_writer.write(log, arrays, records, out, item_text.of(data))
  folder.rmtree()
  return summary


def _folder(root: epath.Path, stage: str, digest: str) -> epath.Path:
  """Returns the folder of the parts; removes those of other logs, settings or code. The caller holds the lock."""
  folder = root / f'.{stage}.beam-{digest}'
  for path in root.iterdir():
    if path.name.startswith(f'.{stage}.beam-') and path.name != folder.name:
      path.rmtree()
  return folder


def _absolute(path: epath.Path) -> str:
  return os.path.abspath(path) if files_lib.is_local(path) else os.fspath(path)


@contextlib.contextmanager
def _local_folder(folder: epath.Path) -> Iterator[pathlib.Path]:
  """An empty folder on a file system, for arrays that are memory-mapped."""
  parent = folder if files_lib.is_local(folder) else None
  with tempfile.TemporaryDirectory(prefix='joined-', dir=parent) as name:
    yield pathlib.Path(name)
  tasks.loaded.cache_clear()
