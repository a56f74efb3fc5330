"""Chips by topology and by device kind."""

import pytest

from launch.compile.chips import CHIPS, chip_of, peak_flops


def test_chips_are_found_by_topology():
  assert chip_of('v5e:16x16').flops == 197e12
  assert chip_of('v5p:4x4x4').hbm == pytest.approx(95.74 * 2**30)
  for wrong in ('v9:2x2', 'v5e', 'v5e:ax2', 'v5e:'):
    with pytest.raises(ValueError, match=r'must be one of v4, v5e.*got .*Set --topology'):
      chip_of(wrong)


def test_peaks_are_found_by_part_of_the_device_kind():
  assert peak_flops('NVIDIA H200') == 989e12
  assert peak_flops('TPU v5 lite') == CHIPS['v5e'].flops == 197e12
  assert peak_flops('TPU v5p') == CHIPS['v5p'].flops == 459e12
  assert peak_flops('cpu') is None
