"""Amazon Musical Instruments (2018, 5-core), leave-one-out.

Command:   python -m recjax.main --config=configs/instruments.py:cpu --config.data.raw_dir=FOLDER
Hardware:  one accelerator; 2 cores with :cpu
Figure:    none; the raw files were not available.

The published reviews repeat some lines; these are read once. For another category set
`--config.data.category` and `--config.data.name`.
"""

from configs import common


def get_config(variant: str = ''):
  small = variant in common.SMALL  # for two cores
  config = common.start('amazon2018', 'instruments', category='Musical_Instruments')
  config.data.k_core = 5
  config.data.duplicates = 'drop'
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
  return common.vary(config, variant)
