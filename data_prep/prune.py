"""Removes stage folders that a config does not use from its prepared folder."""

from data_prep import prepare
from data_prep import stage as stage_lib
from data_prep.encoders import stage as encoder_stage
from recjax import config as config_lib
from recjax.data import prepared as prepared_lib
from recjax.data.prepared import Prepared
from recjax.runtime import lock


def unused(prepared: Prepared) -> dict[str, int]:
  """Returns the stage folders that this config does not use, and their sizes in bytes."""
  used = set(prepared.folders.values())
  names = [name for name in stage_lib.finished(prepared.root) if name not in used]
  return {name: stage_lib.num_bytes(prepared.root / name) for name in names}


def describe_unused(prepared: Prepared) -> str:
  """Returns one line about the folders of `unused`; empty if there are none."""
  sizes = unused(prepared)
  if not sizes:
    return ''
  return (
    f'{prepared.root}: {len(sizes)} folders of {sum(sizes.values()) / 1e6:,.1f} MB are not used by this config: '
    f'{", ".join(sizes)}. Remove them with --mode=prepare --prune'
  )


def prune(config: config_lib.Config, prepared: Prepared) -> dict[str, int]:
  """Removes the folders that this config does not use from its prepared folder.

  These are stage folders of other configs, partial folders, and parts of encodings. The answers of a paid
  endpoint are kept.

  Args:
    config: the config of the run.
    prepared: the stage folders of the config, as `prepare` returns them.

  Returns:
    The names of the removed folders, and their sizes in bytes.
  """
  root = prepared.root
  with lock.hold(root, 'pruning', wait=True, field=prepare.FIELD):
    sizes = unused(prepared)
    # Other hidden folders belong to the user or to the file system, such as .snapshot.
    left = [
      path
      for path in root.iterdir()
      if path.is_dir() and (path.name == encoder_stage.PARTS or stage_lib.is_leftover(path.name))
    ]
    sizes |= {path.name: stage_lib.num_bytes(path) for path in left}
    for name in sizes:
      (root / name).rmtree()
    has_variants = any(map(stage_lib.is_variant, prepared.folders.values()))
    keys = dict.fromkeys(prepare.record_keys(config, prepared), prepared.folders)
    # Another config may use the same folders, such as one with the values of a workdir.
    record = prepared_lib.read_record(root) | keys
    kept = {key: folders for key, folders in record.items() if folders == prepared.folders}
    prepared_lib.write_record(root, kept if has_variants else {})
  return sizes
