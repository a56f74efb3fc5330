"""When the steps of a run ended: minutes of its running time, from its event files and goodput.json.

metrics.jsonl has no times. The TensorBoard event files of a workdir hold the moment of every evaluation, and goodput.json
the begin and the seconds of every process. Time between two processes does not count.
"""

import datetime
import struct
from typing import Any

from etils import epath
from google.protobuf.message import DecodeError
from tensorboardX.proto import event_pb2

from recjax.runtime import goodput
from recjax.workdir import metrics_file

_LENGTH = struct.Struct('<Q')
_CRC = 4  # bytes of each of the two checksums of a record


def evaluations(workdir: epath.PathLike, metric: str) -> list[tuple[float, float]]:
  """Returns minutes and value of a metric at every evaluation during training.

  Args:
    workdir: folder of the run.
    metric: its name, such as 'recall@10'.

  Returns:
    Pairs by ascending time, of the steps that count: a step that a later process repeated is left out. Empty if the
    workdir has no event files or no goodput.json, as that of a run in stages.
  """
  workdir, name = epath.Path(workdir), metrics_file.EVALUATION + metric
  values = {
    row['step']: row[name]
    for row in metrics_file.read_metrics(workdir)
    if row.get(name) is not None
  }
  minutes = _minutes(workdir) if values else {}
  return [(minutes[step], values[step]) for step in sorted(values) if step in minutes]


def _minutes(workdir: epath.Path) -> dict[int, float]:
  """Returns step → minutes at which its evaluation was written, for the last time."""
  processes = [
    (datetime.datetime.fromisoformat(each['began']).timestamp(), sum(each['seconds'].values()))
    for each in goodput.read(workdir)
  ]
  found, folder = {}, workdir / metrics_file.FOLDER
  files = list(folder.iterdir()) if folder.exists() else []
  for event in (event for file in files for event in _events(file.read_bytes())):
    if not any(v.tag.startswith(metrics_file.EVALUATION) for v in event.summary.value):
      continue
    began = max((b for b, _ in processes if b <= event.wall_time), default=None)
    if began is not None:
      before = sum(seconds for b, seconds in processes if b < began)
      minutes = (before + event.wall_time - began) / 60
      found[event.step] = max(found.get(event.step, 0.0), minutes)
  return found


def _events(content: bytes) -> list[Any]:
  """Returns the events of an event file: records of length, checksum, event, checksum. A cut end is left out."""
  events, at = [], 0
  while at + _LENGTH.size <= len(content):
    start = at + _LENGTH.size + _CRC
    end = start + _LENGTH.unpack_from(content, at)[0]
    if end > len(content):
      break
    try:
      events.append(event_pb2.Event.FromString(content[start:end]))
    except DecodeError:
      break
    at = end + _CRC
  return events
