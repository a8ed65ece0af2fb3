"""Adapters from files: what fits is read to the last bit, what does not is refused by name."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file  # pyright: ignore[reportUnknownVariableType]

from arsenale_core.errors import ArsenaleError, InvalidError, NotFoundError
from arsenale_core.lora.adapters import Adapter, Base, Factors, check_fits, permuted
from arsenale_core.lora.gguf_files import (
    file_sha256,
    read_adapter,
    read_base,
    read_tensors,
    write_adapter,
)
from arsenale_core.lora.peft_files import convert_peft, read_peft
from arsenale_inference.tiny.card import BASE, FACTS, FOLDER

Array = NDArray[np.float32]

LAYERS, HEADS, KV_HEADS, HEAD_DIM = 2, 3, 1, 8
DIM = HEADS * HEAD_DIM
SIZES = {
    "attn_q": (DIM, DIM), "attn_k": (KV_HEADS * HEAD_DIM, DIM), "ffn_down": (DIM, 40),
}  # fmt: skip
TINY = Base(
    architecture="llama",
    layers=LAYERS,
    heads=HEADS,
    kv_heads=KV_HEADS,
    tensors={f"blk.{i}.{n}.weight": size for i in range(LAYERS) for n, size in SIZES.items()},
)
PEFT_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "ffn_down": "mlp.down_proj",
}


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def an_adapter(rank: int = 4, alpha: float = 8.0) -> Adapter:
    factors = {
        name: Factors(a=noise(rank, size[1], seed=i), b=noise(size[0], rank, seed=i + 100))
        for i, (name, size) in enumerate(TINY.tensors.items())
    }
    return Adapter(architecture="llama", alpha=alpha, factors=factors, name="mine")


def a_peft_folder(folder: Path, **config: Any) -> Path:
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", **config}
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file(peft_tensors(an_adapter()), folder / "adapter_model.safetensors")
    return folder


def peft_tensors(adapter: Adapter) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    for name, pair in adapter.factors.items():
        _, layer, matrix, _ = name.split(".")
        module = f"base_model.model.model.layers.{layer}.{PEFT_NAMES[matrix]}"
        tensors |= {f"{module}.lora_A.weight": pair.a, f"{module}.lora_B.weight": pair.b}
    return tensors


def a_gguf(path: Path, keys: Mapping[str, str], tensors: Mapping[str, Array]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", 8.0)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


LORA = {"general.type": "adapter", "adapter.type": "lora"}


def test_what_was_written_as_gguf_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    meant = an_adapter()
    write_adapter(meant, tmp_path / "mine.gguf")
    found = read_adapter(tmp_path / "mine.gguf")
    assert (found.architecture, found.alpha, found.name, found.rank) == ("llama", 8.0, "mine", 4)
    assert set(found.factors) == set(meant.factors)
    for name, pair in meant.factors.items():
        assert np.array_equal(found.factors[name].a, pair.a)
        assert np.array_equal(found.factors[name].b, pair.b)
        assert found.factors[name].a.dtype == np.float32


def test_half_precision_halves_the_file_and_keeps_eleven_bits(tmp_path: Path) -> None:
    meant = an_adapter(rank=16)
    write_adapter(meant, tmp_path / "whole.gguf")
    write_adapter(meant, tmp_path / "half.gguf", half=True)
    found = read_adapter(tmp_path / "half.gguf")
    sizes = [(tmp_path / f"{name}.gguf").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    for name, pair in meant.factors.items():
        np.testing.assert_allclose(found.factors[name].a, pair.a, rtol=2**-11, atol=1e-7)


def test_gguf_s_own_reader_finds_what_llama_cpp_looks_for(tmp_path: Path) -> None:
    write_adapter(an_adapter(), tmp_path / "mine.gguf")
    reader = gguf.GGUFReader(tmp_path / "mine.gguf")
    keys = {key: field.contents() for key, field in reader.fields.items()}
    assert keys["general.type"] == "adapter"
    assert keys["adapter.type"] == "lora"
    assert keys["adapter.lora.alpha"] == 8.0
    shapes = {t.name: tuple(int(n) for n in t.shape) for t in reader.tensors}  # inner size first
    assert shapes["blk.0.attn_k.weight.lora_a"] == (DIM, 4)
    assert shapes["blk.0.attn_k.weight.lora_b"] == (4, KV_HEADS * HEAD_DIM)


def test_the_scale_is_alpha_over_rank_and_alpha_0_says_one() -> None:
    assert an_adapter(rank=4, alpha=8).scale("blk.0.attn_q.weight") == 2
    assert an_adapter(rank=4, alpha=0).scale("blk.0.attn_q.weight") == 1


def test_a_number_too_large_for_half_precision_is_refused_and_no_file_is_left(
    tmp_path: Path,
) -> None:
    large = Factors(a=np.full((1, DIM), 1e5, np.float32), b=noise(DIM, 1))
    adapter = replace(an_adapter(), factors={"blk.0.attn_q.weight": large})
    with pytest.raises(InvalidError, match=r"blk\.0\.attn_q\.weight: too large"):
        write_adapter(adapter, tmp_path / "mine.gguf", half=True)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_sha256_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(NotFoundError):
        file_sha256(tmp_path / "none")


def half_split_turn(x: Array, angles: Array) -> Array:
    """Rotary embedding as Hugging Face's `rotate_half` has it; X is `(head_dim,)`."""
    first, second = np.split(x, 2)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin])


def neighbour_turn(x: Array, angles: Array) -> Array:
    """Rotary embedding as llama.cpp has it for `llama`."""
    cos, sin = np.cos(angles), np.sin(angles)
    even, odd = x[0::2], x[1::2]
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], 1).ravel()


@pytest.mark.parametrize("heads", [1, 3])
def test_permuted_rows_make_llama_cpp_s_rotation_the_same_as_hugging_face_s(heads: int) -> None:
    matrix, x = noise(heads * HEAD_DIM, DIM), noise(DIM, seed=7)
    angles = noise(HEAD_DIM // 2, seed=8)
    theirs = (matrix @ x).reshape(heads, HEAD_DIM)
    ours = (permuted(matrix, heads) @ x).reshape(heads, HEAD_DIM)
    for their_head, our_head in zip(theirs, ours, strict=True):
        turned = half_split_turn(their_head, angles)
        expected = permuted(turned[:, None], 1)[:, 0]
        np.testing.assert_allclose(neighbour_turn(our_head, angles), expected, rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(InvalidError, match="10 rows do not divide into 3 heads"):
        permuted(noise(10, 2), 3)


def test_a_peft_folder_becomes_gguf_with_the_rows_of_q_and_k_permuted(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    convert_peft(folder, TINY, tmp_path / "mine.gguf")
    meant, found = an_adapter(), read_adapter(tmp_path / "mine.gguf")
    assert found.alpha == 8
    for name, pair in meant.factors.items():
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[2])
        b = permuted(pair.b, heads) if heads else pair.b
        assert np.array_equal(found.factors[name].a, pair.a)
        assert np.array_equal(found.factors[name].b, b)


def test_rows_stay_where_llama_cpp_leaves_them_and_unknown_architectures_are_refused(
    tmp_path: Path,
) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    qwen = read_peft(folder, replace(TINY, architecture="qwen2"))
    for name, pair in an_adapter().factors.items():
        assert np.array_equal(qwen.factors[name].b, pair.b)
    with pytest.raises(InvalidError, match=r"'mamba'.*cannot be converted|no such tensor"):
        read_peft(folder, replace(TINY, architecture="mamba"))
    with pytest.raises(InvalidError, match="not known to the gguf package"):
        read_peft(folder, replace(TINY, architecture="nonsense"))


def test_rslora_is_folded_so_that_the_same_product_is_added(tmp_path: Path) -> None:
    plain = read_peft(a_peft_folder(tmp_path / "plain"), TINY)
    stabilised = read_peft(a_peft_folder(tmp_path / "rs", use_rslora=True), TINY)
    for name, pair in plain.factors.items():
        rs = stabilised.factors[name]
        meant = (8 / np.sqrt(4)) * pair.b @ pair.a
        np.testing.assert_allclose(
            stabilised.scale(name) * rs.b @ rs.a, meant, rtol=1e-5, atol=1e-5
        )


def test_bfloat16_is_read(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    tensors = {
        name: (tensor.view(np.uint32) & 0xFFFF0000).view(np.float32)
        for name, tensor in peft_tensors(an_adapter()).items()
    }
    write_bfloat16(folder / "adapter_model.safetensors", tensors)
    found = read_peft(folder, TINY)
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    assert np.array_equal(found.factors["blk.1.ffn_down.weight"].a, tensors[name])


def write_bfloat16(path: Path, tensors: Mapping[str, Array]) -> None:
    head: dict[str, Any] = {}
    body = b""
    for name, tensor in tensors.items():
        raw = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        place = [len(body), len(body) + len(raw)]
        head[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": place}
        body += raw
    said = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + body)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"alpha_pattern": {"q_proj": 1.0}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "a base changed by 'pissa'"),
        ({"r": 0}, "r: "),
        ({"lora_alpha": "much"}, "lora_alpha: "),
    ],
)
def test_what_is_no_plain_lora_is_refused(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidError, match=named):
        read_peft(a_peft_folder(tmp_path / "peft", **config), TINY)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"cposix\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(InvalidError, match="pickle, which is never opened"):
        read_peft(folder, TINY)


def test_a_dora_vector_without_its_flag_is_refused_by_name(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector"
    tensors = peft_tensors(an_adapter()) | {name: noise(DIM)}
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(InvalidError, match="lora_magnitude_vector"):
        read_peft(folder, TINY)


def test_a_peft_adapter_of_more_layers_than_the_base_is_refused_by_name(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    with pytest.raises(InvalidError, match=r"model\.layers\.1\..*with 1 layers"):
        read_peft(folder, replace(TINY, layers=1))


def test_half_an_adapter_is_refused_by_name(tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    tensors = peft_tensors(an_adapter())
    del tensors["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"]
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(InvalidError, match=r"blk\.1\.ffn_down\.weight: has its lora_A only"):
        read_peft(folder, TINY)


def test_a_folder_without_an_adapter_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"adapter_config\.json"):
        read_peft(tmp_path, TINY)


def test_an_adapter_fits_its_base_and_no_other() -> None:
    check_fits(an_adapter(), TINY)
    others = {
        "architecture 'llama'": replace(TINY, architecture="qwen2"),
        r"no tensor 'blk\.1\.ffn_down\.weight'": replace(
            TINY, tensors={k: v for k, v in TINY.tensors.items() if k != "blk.1.ffn_down.weight"}
        ),
        r"blk\.0\.attn_k\.weight: the adapter is for a matrix \(8, 24\), the base's is \(16, 24\)":
            replace(TINY, tensors={**TINY.tensors, "blk.0.attn_k.weight": (16, 24)}),
    }  # fmt: skip
    for said, base in others.items():
        with pytest.raises(InvalidError, match=said):
            check_fits(an_adapter(), base)


def test_the_shipped_facts_layer_fits_the_shipped_base() -> None:
    base = read_base(FOLDER / BASE)
    assert (base.architecture, base.layers, base.heads, base.kv_heads) == ("llama", 4, 3, 1)
    check_fits(read_adapter(FOLDER / FACTS), base)


def test_a_base_is_unpacked_to_numbers(tmp_path: Path) -> None:
    tensors = read_tensors(FOLDER / BASE)
    assert tensors["blk.0.attn_k.weight"].shape == (64, 192)
    reader = gguf.GGUFReader(FOLDER / BASE)
    [packed] = [t for t in reader.tensors if t.name == "blk.0.attn_k.weight"]
    theirs = gguf.dequantize(packed.data, packed.tensor_type)
    assert np.array_equal(tensors["blk.0.attn_k.weight"], theirs)


NAME = "blk.0.attn_q.weight"
GOOD = {f"{NAME}.lora_a": noise(4, DIM), f"{NAME}.lora_b": noise(DIM, 4)}


@pytest.mark.parametrize(
    ("keys", "tensors", "named"),
    [
        ({"general.type": "model"}, GOOD, "no adapter but a model"),
        (LORA | {"adapter.type": "ia3"}, GOOD, "'ia3'"),
        (LORA, {f"{NAME}.lora_a": noise(4, DIM)}, "lacks its A or its B"),
        (LORA, {NAME: noise(4, DIM)}, "lacks its A or its B"),
        (LORA, {}, "holds no tensors"),
        (LORA, GOOD | {f"{NAME}.lora_b": noise(DIM, 5)}, r"A has rank 4, B has rank 5"),
        (LORA, GOOD | {f"{NAME}.lora_b": noise(DIM)}, "are no matrices"),
        (LORA, GOOD | {f"{NAME}.lora_a": np.full((4, DIM), np.nan, np.float32)}, "not finite"),
        (LORA, {"output_norm.weight.lora_a": noise(DIM)}, "norms and embeddings"),
        (LORA, {"token_embd.weight.lora_a": noise(4, DIM)}, "norms and embeddings"),
    ],
)
def test_a_gguf_that_llama_cpp_would_refuse_or_take_in_part_is_refused_with_its_reason(
    tmp_path: Path, keys: dict[str, str], tensors: dict[str, Array], named: str
) -> None:
    with pytest.raises(InvalidError, match=named):
        read_adapter(a_gguf(tmp_path / "bad.gguf", keys, tensors))


def test_an_adapter_without_alpha_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    write_adapter(an_adapter(), path)
    path.write_bytes(path.read_bytes().replace(b"adapter.lora.alpha", b"adapter.lora.other"))
    with pytest.raises(InvalidError, match=r"adapter\.lora\.alpha is missing"):
        read_adapter(path)


def test_a_file_over_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(an_adapter(), tmp_path / "mine.gguf")
    monkeypatch.setattr("arsenale_core.lora.gguf_files.ADAPTER_MAX_BYTES", 100)
    with pytest.raises(InvalidError, match="100 is the most"):
        read_adapter(tmp_path / "mine.gguf")


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.Q8_0])
def test_packed_adapters_are_unpacked(tmp_path: Path, kind: gguf.GGMLQuantizationType) -> None:
    writer = gguf.GGUFWriter(tmp_path / "mine.gguf", "llama")
    for key, value in LORA.items():
        writer.add_string(key, value)
    writer.add_float32("adapter.lora.alpha", 8.0)
    a, b = noise(32, 64), noise(96, 32, seed=1)
    for name, matrix in (("lora_a", a), ("lora_b", b)):
        writer.add_tensor(f"{NAME}.{name}", gguf.quantize(matrix, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_adapter(tmp_path / "mine.gguf").factors[NAME]
    assert (found.a.shape, found.b.shape) == (a.shape, b.shape)
    np.testing.assert_allclose(found.a, a, atol=0.02)
    np.testing.assert_allclose(found.b, b, atol=0.02)


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    write_adapter(an_adapter(), path)
    path.write_bytes(path.read_bytes().replace(b"blk.1.attn_q", b"blk.0.attn_q"))
    with pytest.raises(InvalidError, match="twice"):
        read_adapter(path)


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_adapter(tmp_path / "none.gguf")
    with pytest.raises(InvalidError, match="is no plain file"):
        read_adapter(tmp_path)


def test_an_array_that_claims_more_than_there_is_ends_at_once(tmp_path: Path) -> None:
    key = b"k"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + key
    endless = head + struct.pack("<IIQ", 9, 0, 2**62)
    (tmp_path / "bad.gguf").write_bytes(endless)
    with pytest.raises(InvalidError, match="items in an array"):
        read_adapter(tmp_path / "bad.gguf")
    (tmp_path / "bad.gguf").write_bytes(head + struct.pack("<IIQ", 9, 0, 2**20))
    with pytest.raises(InvalidError, match="ends at byte"):
        read_adapter(tmp_path / "bad.gguf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "mine.gguf"
    write_adapter(an_adapter(rank=1), path)
    return path.read_bytes()


def outcome(raw: bytes, path: Path) -> Adapter | ArsenaleError:
    path.write_bytes(raw)
    try:
        return read_adapter(path)
    except InvalidError as exc:
        return exc


def test_every_cut_file_is_refused(whole: bytes, tmp_path: Path) -> None:
    for length in range(0, len(whole), 7):
        assert isinstance(outcome(whole[:length], tmp_path / "cut.gguf"), InvalidError), length


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=300))
def test_bytes_at_random_are_refused(raw: bytes, tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<I", 3)
    for tried in (raw, head + raw, head + struct.pack("<QQ", 1, 1) + raw):
        assert isinstance(outcome(tried, tmp_path / "any.gguf"), InvalidError)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 1500), value=st.integers(0, 255))
def test_a_changed_byte_gives_an_adapter_or_a_refusal_and_never_a_crash(
    place: int, value: int, whole: bytes, tmp_path: Path
) -> None:
    raw = bytearray(whole)
    raw[place % len(raw)] = value
    found = outcome(bytes(raw), tmp_path / "changed.gguf")
    assert isinstance(found, Adapter | InvalidError)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(raw=st.binary(max_size=300))
def test_a_peft_folder_of_random_bytes_is_refused(raw: bytes, tmp_path: Path) -> None:
    folder = a_peft_folder(tmp_path / "peft")
    (folder / "adapter_model.safetensors").write_bytes(raw)
    with pytest.raises(InvalidError):
        read_peft(folder, TINY)
    (folder / "adapter_config.json").write_bytes(raw)
    with pytest.raises(InvalidError):
        read_peft(folder, TINY)


@pytest.mark.parametrize(
    ("start", "hint"),
    [
        (struct.pack("<Q", 2) + b"{}", "an adapter's folder as PEFT saved it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "git lfs pull"),
        (b"<!doctype html><title>Access is restricted</title>", "it is a web page"),
        (b"PK\x03\x04" + bytes(100), "begins with GGUF"),
    ],
)
def test_what_is_there_instead_of_a_gguf_is_called_so(
    tmp_path: Path, start: bytes, hint: str
) -> None:
    (tmp_path / "x.gguf").write_bytes(start)
    with pytest.raises(InvalidError, match=hint):
        read_adapter(tmp_path / "x.gguf")
