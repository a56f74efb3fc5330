"""Slices: groups of devices with a fast network inside (ICI) and a slow one between them (DCN)."""

from collections.abc import Sequence

import jax


def slice_of(device: jax.Device) -> int:
  """Returns the index of a TPU's slice; 0 for other devices."""
  # GPUs report a slice too: a group that NVLink connects. They keep one mesh unless the config divides them.
  return device.slice_index if device.platform == 'tpu' and hasattr(device, 'slice_index') else 0


def split(devices: Sequence[jax.Device], count: int | None) -> list[list[jax.Device]]:
  """Returns the devices of each slice, in the order of the slices.

  Args:
    devices: devices of a mesh.
    count: `mesh.dcn_data`. None: the slices that TPUs report, otherwise one. Other devices are divided into `count`
      runs of neighbours: on GPUs these are nodes, on a CPU they simulate slices.

  Raises:
    ValueError: TPUs are in another number of slices, or the slices have different sizes.
  """
  reported = sorted({slice_of(device) for device in devices})
  if len(reported) > 1:
    if count not in (None, len(reported)):
      raise ValueError(
        f'mesh.dcn_data must be the number of slices, {len(reported)}, or None; got {count}. Set '
        '--config.mesh.dcn_data'
      )
    found = [[device for device in devices if slice_of(device) == n] for n in reported]
    if len(sizes := {len(part) for part in found}) > 1:
      raise ValueError(
        f'all slices must have the same number of devices; got {sorted(sizes)}. Request slices of one topology'
      )
    return found
  size, rest = divmod(len(devices), count or 1)
  if rest:
    raise ValueError(
      f'mesh.dcn_data must divide the {len(devices)} devices of this run; got {count}. Set --config.mesh.dcn_data'
    )
  return [list(devices[i : i + size]) for i in range(0, len(devices), size)]
