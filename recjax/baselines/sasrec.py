"""SASRec with full softmax: the hyper-parameters that configs/sasrec.py and the baseline `sasrec` share.

Klenitskiy and Vasilev ("Turning dross into gold loss: is BERT4Rec really better than SASRec?", RecSys 2023) found that SASRec
with a softmax over the catalogue is as good as later models.
"""

from typing import Any

# Fields of the config, by section.
RECIPE: dict[str, Any] = {
  'sids': {
    'quantizer': 'item',
    'codes': (),
  },  # one token an item: the softmax of a level is the full one
  'mixture': {'next_item': {'max_items': 50, 'prompts': ('{history}',), 'crop': 0.5}},
  'model': {
    'family': 'sasrec',
    'depth': 2,
    'width': 128,
    'ff_width': 128,
    'heads': 2,
    'kv_heads': 2,
    'head_width': 64,
    'max_positions': 64,
    'dropout': 0.5,
    'scan_unroll': 2,
  },
  'packing': {'row_length': 64, 'rows': 32},
  'batch_size': 32,
  'num_train_steps': None,
  'num_epochs': 40.0,
  'optim': {'learning_rate': 2e-3, 'weight_decay': 0.1, 'warmup_steps': None},
  'eval': {'beams': 20, 'eval_users': 3000},
  'log_every_steps': None,
  'eval_every_steps': None,
  'checkpoint_every_steps': None,
}
