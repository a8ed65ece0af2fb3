"""PEFT folders (`adapter_config.json`, `adapter_model.safetensors`) as adapters of llama.cpp.

Pickled weights (`adapter_model.bin`) are refused: to open one is to run what its author wrote.
"""

import codecs
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import gguf
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors import deserialize as _untyped  # pyright: ignore[reportUnknownVariableType]

from arsenale_core.errors import InvalidError, NotFoundError
from arsenale_core.lora.adapters import (
    Adapter,
    Base,
    Factors,
    Matrix,
    check_factors,
    check_fits,
    in_llama_order,
)
from arsenale_core.lora.gguf_files import ADAPTER_MAX_BYTES, refuse_unserved, write_adapter

CONFIG_MAX_BYTES = 2**20
"""The largest `adapter_config.json`; real ones have a kilobyte."""

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

Half: TypeAlias = dict[str, Matrix]

KEEP_THE_BASE = ("gaussian", "eva", "orthogonal")
"""Ways to begin a layer that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change it."""

_deserialize = cast("Callable[[bytes], list[tuple[str, dict[str, Any]]]]", _untyped)

_TENSOR = re.compile(
    r"^base_model\.model\.(?P<module>.+)\.lora_(?P<half>[AB])(\.(?P<adapter>[^.]+))?\.weight$"
)
"""PEFT leaves the adapter's name out when it saves; who saves a state dict himself does not."""

_VISION = "language_model."
"""What models with vision (Gemma 3, Qwen-VL) put around the layers that llama.cpp has."""

HARMLESS = frozenset(
    {
        # where it is from, and how it was trained
        "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "peft_version",
        "revision", "task_type", "unsloth_fixed",
        # which modules have layers: the tensors say that themselves
        "exclude_modules", "layers_pattern", "layers_to_transform", "rank_pattern",
        "target_modules",
        # options of what other fields turn on; those are checked
        "corda_config", "ensure_weight_tying", "eva_config", "loftq_config", "lora_ga_config",
        "megatron_config", "megatron_core", "qalora_group_size", "runtime_config",
    }
)  # fmt: skip
"""Fields of PEFT 0.18's `LoraConfig` that do not change what a saved B @ A means."""


class Config(BaseModel):
    """The part of `adapter_config.json` that says how B @ A is to be added.

    Every other field is refused when it is set, unless it is one of `HARMLESS`: it may say that
    B @ A is not all, or not always, what the adapter adds.
    """

    model_config = ConfigDict(extra="allow")
    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: float = Field(allow_inf_nan=False)
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    bias: str = "none"
    alpha_pattern: dict[str, float] | None = None
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True
    alora_invocation_tokens: list[int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        """Take a field that is null for one that is not there."""
        if not isinstance(data, dict):
            return data
        given = cast("dict[str, Any]", data)
        return {name: value for name, value in given.items() if value is not None}


def read_peft(folder: Path, base: Base) -> Adapter:
    """Read the adapter that PEFT saved in FOLDER, in llama.cpp's form for BASE.

    A rank-stabilised layer (rsLoRA, scale `alpha / sqrt(rank)`) comes out as a plain one: its B
    is multiplied by `sqrt(rank)`.

    Raises:
        InvalidError: A file is damaged, too large or pickled; the adapter is not a plain LoRA of
            PEFT; or it does not fit BASE. It names the field or the tensor.
        NotFoundError: FOLDER holds no adapter.
    """
    _check_folder(folder)
    config = _config(folder)
    _check_plain(config, folder)
    halves = _halves(folder)
    names = gguf.get_tensor_name_map(_architecture(base), base.layers)
    factors: dict[str, Factors] = {}
    for module, half in halves.items():
        name = names.get_name(module.replace(_VISION, "", 1))
        if name is None:
            raise InvalidError(
                f"{module}: llama.cpp has no such tensor in {base.architecture!r} "
                f"with {base.layers} layers",
                hint="is it the base that the adapter was trained on?",
            )
        factors[f"{name}.weight"] = _converted(f"{name}.weight", half, config, base)
    adapter = Adapter(
        architecture=base.architecture,
        alpha=config.lora_alpha,
        factors=factors,
        name=folder.name,
    )
    check_fits(adapter, base)
    return adapter


def convert_peft(folder: Path, base: Base, path: Path, *, half: bool = False) -> Adapter:
    """Write the adapter that PEFT saved in FOLDER to PATH as GGUF for BASE, and return it.

    Raises:
        InvalidError: As `read_peft` and `write_adapter`.
        NotFoundError: FOLDER holds no adapter.
    """
    adapter = read_peft(folder, base)
    write_adapter(adapter, path, half=half)
    return adapter


def _check_folder(folder: Path) -> None:
    """Refuse what is not the folder of an adapter, with what it is instead."""
    if folder.is_file():
        raise InvalidError(
            f"{folder} is a file", hint=f"give its folder, which has {CONFIG} and {WEIGHTS}"
        )
    if not folder.is_dir() or (folder / CONFIG).exists():
        return
    inner = sorted(each.parent.name for each in folder.glob(f"*/{CONFIG}"))
    if inner:
        raise InvalidError(
            f"{folder} has no {CONFIG}, but {len(inner)} of its folders have one",
            hint=f"give one of them: {', '.join(inner[:5])}",
        )
    if (folder / WEIGHTS).exists():
        raise InvalidError(f"{folder} has {WEIGHTS} without its {CONFIG}", hint="add that file")
    if (folder / "config.json").exists():
        raise InvalidError(
            f"{folder} has a whole model, not an adapter",
            hint="convert it to GGUF and register it with `arsenale models add`",
        )


def _config(folder: Path) -> Config:
    raw = _bytes(folder / CONFIG, CONFIG_MAX_BYTES).removeprefix(codecs.BOM_UTF8)
    _check_not_mlx(raw, folder)
    try:
        return Config.model_validate_json(raw)
    except ValidationError as exc:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors(include_url=False)
        )
        raise InvalidError(f"{folder / CONFIG}: {wrong}", hint="save the adapter again") from None


def _check_not_mlx(raw: bytes, folder: Path) -> None:
    try:
        found: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict) and {"fine_tune_type", "lora_parameters"} & found.keys():
        raise InvalidError(
            f"{folder} is an adapter of MLX (`fine_tune_type`, `lora_parameters`), not of PEFT",
            hint="merge it into its base (`mlx_lm.fuse`), convert the result to GGUF and register "
            "it with `arsenale models add`; or train the adapter with PEFT",
        )


def _check_plain(config: Config, folder: Path) -> None:
    start = config.init_lora_weights
    refused = {
        f"type {config.peft_type!r}": config.peft_type != "LORA",
        "DoRA": config.use_dora,
        "trained biases": config.lora_bias or config.bias != "none",
        "alpha_pattern": bool(config.alpha_pattern),
        "modules_to_save": bool(config.modules_to_save),
        "fan_in_fan_out": config.fan_in_fan_out,
        f"a base changed by {start!r}": isinstance(start, str) and start not in KEEP_THE_BASE,
        "alora_invocation_tokens (aLoRA)": config.alora_invocation_tokens is not None,
    }
    unread = {
        name: name not in HARMLESS and value not in (None, False, "", [], {})
        for name, value in (config.model_extra or {}).items()
    }
    for what, there in (refused | unread).items():
        if there:
            raise InvalidError(
                f"{folder}: adapters with {what} cannot be served",
                hint="train a plain LoRA, or merge the adapter into its base",
            )


def _architecture(base: Base) -> gguf.MODEL_ARCH:
    by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    if base.architecture not in by_name:
        raise InvalidError(
            f"architecture {base.architecture!r} is not known to the gguf package",
            hint="upgrade it: pip install --upgrade gguf",
        )
    return by_name[base.architecture]


def _halves(folder: Path) -> dict[str, Half]:
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise InvalidError(
            f"{folder / PICKLE} is a pickle, which is never opened here",
            hint="save the adapter with save_pretrained(..., safe_serialization=True)",
        )
    shards = sorted(each.name for each in folder.glob("adapter_model-*-of-*.safetensors"))
    if shards and not (folder / WEIGHTS).exists():
        raise InvalidError(
            f"{folder} has its weights in {len(shards)} parts ({shards[0]} ...)",
            hint="save it in one: model.save_pretrained(folder, max_shard_size='2GB')",
        )
    raw = _bytes(folder / WEIGHTS, ADAPTER_MAX_BYTES)
    try:
        tensors = _deserialize(raw)
    except SafetensorError as exc:
        raise InvalidError(
            f"{folder / WEIGHTS} is no safetensors file ({exc})", hint="save the adapter again"
        ) from exc
    halves: dict[str, Half] = {}
    adapters: set[str | None] = set()
    for name, tensor in tensors:
        found = _TENSOR.match(name)
        if found is None:
            raise InvalidError(
                f"{name}: not PEFT's name of a LoRA matrix of a linear map "
                "(base_model.model.MODULE.lora_A.weight)",
                hint="train on linear maps only, and save with PEFT's save_pretrained",
            )
        adapters.add(found["adapter"])
        halves.setdefault(found["module"], {})[found["half"]] = _numbers(name, tensor)
    if len(adapters) > 1:
        raise InvalidError(
            f"{folder / WEIGHTS} has {len(adapters)} adapters", hint="save each in its own folder"
        )
    if not halves:
        raise InvalidError(f"{folder / WEIGHTS} holds no tensors", hint="save the adapter again")
    return halves


def _numbers(name: str, tensor: dict[str, Any]) -> Matrix:
    raw, kind = bytes(tensor["data"]), str(tensor["dtype"])
    if kind == "BF16":  # the upper half of a float32
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in ("F64", "F32", "F16"):
        values = np.frombuffer(raw, f"<f{int(kind[1:]) // 8}").astype(np.float32)
    else:
        raise InvalidError(f"{name}: numbers of type {kind}", hint="save it as F32, F16 or BF16")
    return values.reshape(tensor["shape"])


def _converted(name: str, half: Half, config: Config, base: Base) -> Factors:
    refuse_unserved(name)
    if set(half) != {"A", "B"}:
        raise InvalidError(f"{name}: has its lora_{min(half)} only", hint="save the adapter again")
    pair = Factors(a=half["A"], b=half["B"])
    check_factors(name, pair)
    if config.use_rslora:
        pair = replace(pair, b=(pair.b * math.sqrt(pair.rank)).astype(np.float32))
    return in_llama_order(name, pair, base)


def _bytes(path: Path, limit: int) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > limit:
            raise InvalidError(
                f"{path} has {size_bytes:,} bytes, {limit:,} is the most",
                hint="train the adapter with a lower rank",
            )
        return path.read_bytes()
    except FileNotFoundError as exc:
        raise NotFoundError("file", str(path), hint="give the folder that PEFT saved") from exc
    except OSError as exc:
        raise InvalidError(f"{path} cannot be read ({exc.strerror})", hint="check it") from exc
