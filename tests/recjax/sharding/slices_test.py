"""Devices by slice, and the meshes over several slices."""

import types

import jax
import numpy as np
import pytest

from recjax.schema.run import Mesh
from recjax.sharding import mesh as mesh_lib
from recjax.sharding import slices


def device(number: int, index: int, platform: str = 'tpu') -> types.SimpleNamespace:
  return types.SimpleNamespace(id=number, slice_index=index, platform=platform)


def test_tpus_are_grouped_by_the_slice_that_they_report():
  devices = [device(n, n % 2) for n in range(6)]  # neighbours are in different slices
  for count in (None, 2):
    found = slices.split(devices, count)
    assert [[d.id for d in part] for part in found] == [[0, 2, 4], [1, 3, 5]]
  with pytest.raises(ValueError, match=r'number of slices, 2, or None; got 3.*mesh.dcn_data'):
    slices.split(devices, 3)
  with pytest.raises(ValueError, match=r'the same number of devices; got \[2, 3\]'):
    slices.split(devices[:5], None)


def test_other_devices_are_divided_into_neighbours():
  devices = [device(n, n // 2, 'gpu') for n in range(8)]  # what NVLink connects is no slice
  assert slices.split(devices, None) == [devices]
  assert slices.split(devices, 2) == [devices[:4], devices[4:]]
  with pytest.raises(ValueError, match=r'must divide the 8 devices.*got 3.*mesh.dcn_data'):
    slices.split(devices, 3)


@pytest.mark.parametrize('sizes', [(2, 4, 1), (4, 2, 1), (2, 2, 2), (4, 1, 2), (-1, 1, 4)])
def test_axes_that_hold_parameters_stay_within_a_slice(sizes):
  names = dict(zip(mesh_lib.AXES, sizes, strict=True))
  sliced = mesh_lib.make_mesh(Mesh(**names, dcn_data=2))
  slice_of = np.vectorize(lambda d: jax.devices().index(d) // 4)(sliced.devices)
  assert (slice_of == slice_of[:, :1, :1]).all()  # fsdp and tensor
  assert slice_of[:, 0, 0].tolist() == sorted(slice_of[:, 0, 0])  # the first factor of data
  # The same order as without slices: the same program, so the same losses and parameters.
  assert sliced == mesh_lib.make_mesh(Mesh(**names))


@pytest.mark.parametrize('sizes', [(1, 8, 1), (-1, 1, 8), (1, -1, 2)])
def test_a_slice_that_holds_a_part_of_the_parameters_is_refused(sizes):
  with pytest.raises(
    ValueError, match=r'so that a slice holds all parameters; got .*Set .*mesh.data'
  ):
    mesh_lib.make_mesh(Mesh(**dict(zip(mesh_lib.AXES, sizes, strict=True)), dcn_data=2))


def test_a_factor_that_does_not_divide_data_is_refused_by_the_config():
  with pytest.raises(ValueError, match=r'mesh.dcn_data must divide mesh.data \(2\).*got 4'):
    Mesh(data=2, dcn_data=4)


def test_a_run_on_slices_is_used_on_fewer_devices():
  for sizes, count, slices_left in (
    ((-1, 1, 1), 1, None),
    ((-1, 2, 1), 8, 2),
    ((4, 1, 1), 1, None),
  ):
    mesh = Mesh(**dict(zip(mesh_lib.AXES, sizes, strict=True)), dcn_data=2)
    fitted = mesh_lib.fitted(mesh, count)
    assert fitted.dcn_data == slices_left
    assert mesh_lib.make_mesh(fitted, jax.devices()[:count]).size == count
