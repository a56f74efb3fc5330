"""An estimate and a config for the tests of launch.compile."""

from configs import sports
from launch.compile.chips import CHIPS, GIB
from launch.compile.estimate import Estimate, Memory, roofline
from launch.compile.flops import Work
from recjax import config as config_lib

V5E = CHIPS['v5e']


def estimate_of(**fields) -> Estimate:
  memory = Memory(2 * GIB, 4 * GIB, 1 * GIB, 5 * GIB, 0, 0)
  sent = {'all-gather': 3 * GIB, 'reduce-scatter': GIB}
  return Estimate(
    **{
      'chip': V5E,
      'chips': 4,
      'memory': memory,
      'refusal': '',
      'counted': 1.03e15,
      'work': Work(products=10**15, kernels=10**14, again=2 * 10**14),
      'collectives': sent,
      'roofline': roofline(V5E, 1.97e14, 819e9, 400e9),
      'seconds': 61.0,
    }
    | fields
  )


def config_of(variant: str = 't5_small', **fields) -> config_lib.Config:
  config = sports.get_config(variant)
  with config.unlocked():
    config.update_from_flattened_dict(fields)
  return config_lib.from_config_dict(config)
