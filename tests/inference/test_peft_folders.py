"""Adapter folders as PEFT, MLX and others save them: a plain LoRA is read, all else is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from arsenale_core.errors import InvalidError
from arsenale_core.lora.gguf_files import read_base
from arsenale_core.lora.peft_files import read_peft
from arsenale_inference.tiny.card import BASE, FOLDER

TINY = read_base(FOLDER / BASE)
SHAPES = {"self_attn.q_proj": (192, 192), "mlp.down_proj": (192, 512)}
SAVED: dict[str, Any] = {  # what PEFT 0.18 writes for a plain LoRA
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None,
    "auto_mapping": None, "base_model_name_or_path": "arsenale-tiny", "bias": "none",
    "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 16, "lora_bias": False,
    "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "peft_type": "LORA", "peft_version": "0.18.0",
    "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": None,
    "target_modules": ["q_proj", "down_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False,
}  # fmt: skip


def tensors(prefix: str = "base_model.model.model.layers", adapter: str = "") -> dict[str, Any]:
    chance = np.random.default_rng(1)
    made: dict[str, Any] = {}
    for layer in range(TINY.layers):
        for module, (out, wide) in SHAPES.items():
            for half, shape in (("A", (8, wide)), ("B", (out, 8))):
                name = f"{prefix}.{layer}.{module}.lora_{half}{adapter}.weight"
                made[name] = chance.standard_normal(shape).astype(np.float32)
    return made


def folder(place: Path, weights: dict[str, Any] | None = None, **config: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter_config.json").write_text(json.dumps(SAVED | config), encoding="utf-8")
    save_file(tensors() if weights is None else weights, place / "adapter_model.safetensors")
    return place


def test_what_peft_writes_for_a_plain_lora_is_read(tmp_path: Path) -> None:
    adapter = read_peft(folder(tmp_path), TINY)
    assert len(adapter.factors) == TINY.layers * len(SHAPES)
    assert adapter.scale("blk.0.ffn_down.weight") == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alora_invocation_tokens", [1, 42, 43]), ("alora_invocation_tokens", []),
        ("layer_replication", [[0, 2], [0, 2]]), ("trainable_token_indices", [5, 6]),
        ("trainable_token_indices", {"embed_tokens": [5]}), ("use_qalora", True),
        ("target_parameters", ["mlp.experts.gate_up_proj"]), ("arrow_config", {"top_k": 3}),
        ("use_bdlora", {"blocks": 2}), ("velora_config", {"rank": 1}),
        ("a_field_of_tomorrow", "on"), ("lora_scale_per_layer", [1.0, 2.0]), ("monte_carlo", 4),
    ],
)  # fmt: skip
def test_a_field_that_changes_what_the_adapter_means_is_refused_by_name(
    tmp_path: Path, field: str, value: Any
) -> None:
    with pytest.raises(InvalidError, match=field):
        read_peft(folder(tmp_path, **{field: value}), TINY)


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
@pytest.mark.parametrize("field", ["layer_replication", "use_qalora", "a_field_of_tomorrow"])
def test_a_field_that_is_not_set_is_no_reason_to_refuse(
    tmp_path: Path, field: str, value: Any
) -> None:
    assert read_peft(folder(tmp_path, **{field: value}), TINY).factors


@pytest.mark.parametrize("field", sorted(SAVED.keys() - {"peft_type", "r", "lora_alpha"}))
def test_null_is_the_default_of_every_field(tmp_path: Path, field: str) -> None:
    assert read_peft(folder(tmp_path, **{field: None}), TINY).factors


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", "all-linear"), ("rank_pattern", {"down_proj": 8}),
        ("exclude_modules", ["lm_head"]), ("layers_to_transform", [0, 1, 2, 3]),
        ("lora_dropout", 0.5), ("peft_version", "9.0"), ("init_lora_weights", "eva"),
        ("eva_config", {"rho": 2.0}), ("unsloth_fixed", True), ("task_type", "SEQ_CLS"),
    ],
)  # fmt: skip
def test_a_field_about_training_is_no_reason_to_refuse(
    tmp_path: Path, field: str, value: Any
) -> None:
    assert read_peft(folder(tmp_path, **{field: value}), TINY).factors


def test_an_adapter_of_mlx_is_called_one(tmp_path: Path) -> None:
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": {"rank": 8}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(InvalidError, match=r"MLX \(`fine_tune_type`.*mlx_lm\.fuse"):
        read_peft(tmp_path, TINY)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = folder(tmp_path) / "adapter_config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_peft(tmp_path, TINY).factors


def test_weights_in_parts_are_called_so(tmp_path: Path) -> None:
    whole = folder(tmp_path) / "adapter_model.safetensors"
    for part in ("00001", "00002"):
        shutil.copy(whole, tmp_path / f"adapter_model-{part}-of-00002.safetensors")
    whole.unlink()
    with pytest.raises(InvalidError, match=r"in 2 parts .*max_shard_size"):
        read_peft(tmp_path, TINY)


def test_the_folder_above_names_the_folders_with_adapters(tmp_path: Path) -> None:
    folder(tmp_path / "checkpoint-100")
    folder(tmp_path / "checkpoint-200")
    with pytest.raises(InvalidError, match="give one of them: checkpoint-100, checkpoint-200"):
        read_peft(tmp_path, TINY)


def test_other_things_than_an_adapter_are_called_what_they_are(tmp_path: Path) -> None:
    whole = tmp_path / "model"
    whole.mkdir()
    (whole / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidError, match=r"a whole model, not an adapter.*arsenale models add"):
        read_peft(whole, TINY)
    weights = folder(tmp_path / "peft") / "adapter_model.safetensors"
    with pytest.raises(InvalidError, match="is a file: give its folder"):
        read_peft(weights, TINY)
    (tmp_path / "peft" / "adapter_config.json").unlink()
    with pytest.raises(InvalidError, match=r"without its adapter_config\.json: add that file"):
        read_peft(tmp_path / "peft", TINY)


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.model.language_model.layers",
        "base_model.model.language_model.model.layers",
    ],
)
def test_the_text_layers_of_a_model_with_vision_are_found(tmp_path: Path, prefix: str) -> None:
    plain = read_peft(folder(tmp_path / "plain"), TINY)
    vision = read_peft(folder(tmp_path / "vision", tensors(prefix)), TINY)
    assert vision.factors.keys() == plain.factors.keys()


def test_the_name_of_the_adapter_in_its_tensors_is_skipped(tmp_path: Path) -> None:
    assert read_peft(folder(tmp_path, tensors(adapter=".mine")), TINY).factors
    both = tensors(adapter=".mine") | tensors(adapter=".yours")
    with pytest.raises(InvalidError, match="2 adapters: save each in its own folder"):
        read_peft(folder(tmp_path, both), TINY)


def test_names_that_are_not_peft_s_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="not PEFT's name of a LoRA matrix"):
        read_peft(folder(tmp_path, tensors("model.layers")), TINY)
