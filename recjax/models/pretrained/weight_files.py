"""The safetensors files of a checkpoint folder, and refusals of the other forms of weights."""

import pathlib

from etils import epath

from recjax.models.pretrained import json_file

FILE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
_ADAPTERS = ('adapter_model.safetensors', 'adapter_model.bin', 'adapter_config.json')
_PICKLED = ('.bin', '.pth', '.pt', '.ckpt')
_CONVERT = (
  "python -c \"from transformers import {auto} as M; M.from_pretrained('{folder}')"
  ".save_pretrained('{folder}-safetensors', safe_serialization=True)\""
)


def adapter(folder: epath.Path) -> str | None:
  """Returns the name of a file that belongs to a LoRA adapter; None: the folder has none."""
  return next((name for name in _ADAPTERS if (folder / name).exists()), None)


def refuse_other_kinds(folder: epath.Path, auto: str = 'AutoModelForCausalLM') -> None:
  """Raises a ValueError that names the form of the weights if it is not safetensors of a whole model.

  Args:
    folder: has neither model.safetensors nor its index, or no config.json.
    auto: the `transformers` class for the conversion command of a pickled checkpoint.
  """
  if (folder / FILE).exists() or (folder / INDEX).exists():
    return
  names = [path.name for path in folder.iterdir()]
  if any(name.endswith('.gguf') for name in names):
    raise ValueError(
      f'{folder} must hold safetensors; it holds GGUF files, which are quantized. Set '
      '--config.model.pretrained to the checkpoint that they were made from'
    )
  if (name := adapter(folder)) is not None:
    raise ValueError(
      f'{folder} must hold a complete model; it holds an adapter alone ({name}). Merge it into its base '
      'model, and set --config.model.pretrained to the result'
    )
  pickled = next((end for end in _PICKLED if any(name.endswith(end) for name in names)), None)
  if pickled is not None:
    raise ValueError(
      f'{folder} must hold safetensors; it holds {pickled} files, which can run code when read. With torch '
      f'and transformers installed, convert it: {_CONVERT.format(folder=folder, auto=auto)}'
    )


def find(folder: epath.Path, auto: str) -> tuple[list[epath.Path], dict[str, epath.Path]]:
  """Returns the safetensors files of a folder, and the file of each tensor by the index (empty without one).

  Args:
    folder: a checkpoint.
    auto: see `refuse_other_kinds`.

  Raises:
    FileNotFoundError: there are no tensors, or a part is absent.
    ValueError: the weights have another form, or the index is damaged or names files outside the folder.
  """
  if (folder / FILE).exists():
    return [folder / FILE], {}
  index = folder / INDEX
  if not index.exists():
    refuse_other_kinds(folder, auto)
    raise FileNotFoundError(
      f'{folder} must hold {FILE}, or {INDEX} with its parts. Set --config.model.pretrained'
    )
  names = json_file.field(index, json_file.read_json(index), 'weight_map', dict, {})
  for name in names.values():
    json_file.check_kind(index, 'every value of weight_map in ', name, str, 'a file name')
    path = pathlib.PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or not path.parts:
      raise ValueError(
        f'weight_map of {index} must name files inside the folder; got {name!r}. Correct the file, or set '
        '--config.model.pretrained to another folder'
      )
  if not names:
    raise ValueError(
      f'weight_map of {index} must name the file of every tensor; it names none. Fetch it again'
    )
  files = {name: folder / name for name in sorted(set(names.values()))}
  absent = [name for name, file in files.items() if not file.exists()]
  if absent:
    raise FileNotFoundError(
      f'{index} names files that do not exist: {", ".join(absent)}. Fetch them, or set '
      '--config.model.pretrained to another folder'
    )
  return list(files.values()), {tensor: files[name] for tensor, name in names.items()}
