"""The `interactions` stage: the clean log, its split, and the catalogue."""

from types import ModuleType
from typing import Any

from etils import epath

from data_prep import stage as stage_lib
from data_prep.log import arrays as arrays_lib
from data_prep.log import filters, interactions, item_text, log_writer, splits
from recjax.schema.data import Data


def stage(source: ModuleType, data: Data, raw_dir: epath.Path) -> stage_lib.Stage:
  """Returns the stage that reads the raw files of a source, and writes arrays, catalogue and statistics."""

  def run(out: epath.Path) -> dict[str, Any]:
    scratch = arrays_lib.Scratch(out)
    raw = source.load_into(data, scratch, raw_dir)
    records = raw.item_records
    log = interactions.clean(
      raw, data.k_core, data.duplicates, data.catalogue, filters.Filters.of(data), scratch
    )
    del raw  # raw ids take up most of the memory of this stage
    arrays = splits.split(log, data.split, data.split_shares, data.max_history)
    return log_writer.write(log, arrays, records, out, item_text.of(data))

  params = {'k_core': data.k_core, 'duplicates': data.duplicates, 'catalogue': data.catalogue}
  params |= {'split': data.split, 'max_history': data.max_history}
  if data.split == 'global_time':
    params['split_shares'] = data.split_shares
  params |= {name: value for name, value in data.identifying().items() if name in data.later}
  inputs = source.input_files(data, raw_dir)
  return stage_lib.Stage('interactions', run, inputs, source.params(data) | params)
