"""Amazon Sports and Outdoors (2014, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/sports.py:cpu --config.data.raw_dir=FOLDER --config.data.item_text=generated
           (after `make encoder`; FOLDER held a copy with generated item texts, so leave the last flag out for
           the published files)
Hardware:  2 cores, 24 GiB, no accelerator
Time and figures: results/sports_cpu.json; README.md compares them with baselines and published figures
"""

from configs import common


def get_config(variant: str = ''):
  small = common.without_mixture(variant) in common.SMALL  # for two cores
  config = common.start('amazon2014', 'sports', category='Sports_and_Outdoors')
  config.data.k_core = 5
  config.sids.encoder = 'minilm'
  config.sids.codes = (256, 256, 256)
  config.model.depth = 4
  config.model.width = 128
  config.model.ff_width = 512
  config.model.heads = 4
  config.model.dropout = 0.2
  config.packing.row_length = 128
  config.packing.rows = 64
  config.batch_size = 64 if small else 256
  config.num_train_steps = 2000 if small else 3000
  config.optim.learning_rate = 2e-3
  config.optim.warmup_steps = 200
  return common.interleave(config, variant)
