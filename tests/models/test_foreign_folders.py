"""Folders that are no plain full-precision model: each is named in one line, with what to do."""

from __future__ import annotations

import json
import shutil

import pytest
from command import compress

QUANTISED = {
    "bitsandbytes 8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
    "bitsandbytes 4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
    "bitsandbytes unnamed": ({"load_in_8bit": True}, "quantization_config, 8 bits"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq, 4 bits"),
    "awq": ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, "awq, 4 bits"),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
    "compressed-tensors": ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8"}}}, "torchao"),
    "hqq": ({"quant_method": "hqq", "quant_config": {}}, "hqq"),
    "quanto": ({"quant_method": "quanto", "weights": "int8"}, "quanto"),
    "aqlm": ({"quant_method": "aqlm"}, "aqlm"),
    "auto-round": ({"quant_method": "auto-round", "bits": 2}, "auto-round, 2 bits"),
    "mxfp4": ({"quant_method": "mxfp4"}, "mxfp4"),
    "unknown": ({"quant_method": "of next year", "bits": 1}, "of next year, 1 bits"),
}


def changed(folder, target, **fields):
    shutil.copytree(folder, target)
    path = target / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return target


def refused(capsys, *arguments):
    code, out, err = compress(capsys, *arguments)
    assert (code, out) == (2, ""), (arguments, err)
    assert err.startswith("error: ") and err.count("\n") == 1 and "bug" not in err, (arguments, err)
    return err


def case_params(cases, fast):
    """Parameters of a test; `make test` tries a few."""
    return [pytest.param(case, marks=() if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize("kind", case_params(QUANTISED, ("bitsandbytes 8", "gptq", "fp8")))
def test_quantised_models_are_named(capsys, tmp_path, vit_a, kind):
    values, said = QUANTISED[kind]
    broken = changed(vit_a, tmp_path / "t", quantization_config=values)
    for command in ("plan", "fuse"):
        line = refused(capsys, command, broken, *(("-o", tmp_path / "s") if command == "fuse" else ()))
        assert f"is quantised ({said})" in line and "give the full-precision model" in line


def test_every_command_names_a_quantised_model(capsys, tmp_path, vit_a, vit_b, image_folder):
    odd = changed(vit_a, tmp_path / "t", quantization_config={"quant_method": "gptq", "bits": 4})
    data, out = ("--data", image_folder), ("-o", tmp_path / "s")
    for arguments in (
        ("fuse", vit_b, odd, *out), ("fuse", vit_b, "--anchor", odd, *out, "--no-onnx"), ("plan", vit_b, odd),
        ("finetune", odd, "-t", vit_b, *data, *out), ("finetune", vit_b, "-t", odd, *data, *out), ("inspect", odd),
        ("evaluate", odd, *data), ("bench", odd), ("export", odd, *out),
        ("landscape", vit_a, vit_b, odd, *data, "-o", tmp_path / "s.png"),
        ("interpolate", vit_a, odd, *data, "-o", tmp_path / "s.png"),
    ):  # fmt: skip
        assert "is quantised (gptq, 4 bits)" in refused(capsys, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize(
    "fields",
    [
        {"compression_config": {"format": "int-quantized"}},
        {"quantization": {"group_size": 64, "bits": 4}},
        {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
    ],
    ids=str,
)
def test_other_places_of_a_quantisation(capsys, tmp_path, vit_a, fields):
    assert "is quantised" in refused(capsys, "plan", changed(vit_a, tmp_path / "t", **fields))


@pytest.mark.parametrize("name", ["quantize_config.json", "hf_quant_config.json", "quant_config.json"])
def test_files_of_a_quantisation(capsys, tmp_path, vit_a, name):
    (changed(vit_a, tmp_path / "t") / name).write_text("{}")
    assert f"is quantised ({name})" in refused(capsys, "plan", tmp_path / "t")


@pytest.mark.parametrize(
    "kind", case_params(("float8_e4m3fn", "float8_e5m2", "int8", "uint8"), ("float8_e4m3fn", "int8"))
)
def test_rounded_weights_are_named_whatever_the_config_says(capsys, tmp_path, vit_a, kind):
    import torch
    from safetensors.torch import load_file, save_file

    folder = changed(vit_a, tmp_path / "t")
    weights = load_file(folder / "model.safetensors")
    name = "vit.encoder.layer.0.intermediate.dense.weight"
    weights[name] = weights[name].to(getattr(torch, kind))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    line = refused(capsys, "fuse", folder, "-o", tmp_path / "s")
    assert f"is quantised ({name} is stored as " in line


def test_a_null_quantisation_and_whole_numbers_of_buffers_are_fine(tmp_path, bert):
    import torch
    from safetensors.torch import load_file, save_file

    from compressor.models.folder.weights import load_model

    folder = changed(bert, tmp_path / "t", quantization_config=None)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.position_ids"] = torch.arange(16)[None]
    weights["bert.masked_bias"] = torch.ones(2, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_model(folder).num_parameters() == load_model(bert).num_parameters()


# Adapters

LORA = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 8}


def with_adapter(folder, *, config=True, weights="adapter_model.safetensors"):
    import torch
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(LORA))
    if weights:
        save_file({"base_model.model.vit.lora_A.weight": torch.zeros(2, 2)}, folder / weights)
    return folder


@pytest.mark.parametrize("beside", [(), ("config.json",), ("config.json", "preprocessor_config.json")], ids=str)
@pytest.mark.parametrize("command", case_params(("plan", "fuse", "evaluate", "export"), ("plan",)))
def test_an_adapter_alone_is_named(capsys, tmp_path, vit_a, image_folder, beside, command):
    folder = with_adapter(tmp_path / "lora")
    (folder / "training_args.bin").touch()
    for name in beside:
        shutil.copy(vit_a / name, folder / name)
    more = {"evaluate": ("--data", image_folder), "plan": ()}.get(command, ("-o", tmp_path / "s"))
    line = refused(capsys, command, folder, *more)
    assert "holds only a LORA adapter of some/base, not a whole model" in line and "merge_and_unload" in line


@pytest.mark.parametrize("peft", case_params((False, True), (True,)))
def test_an_adapter_beside_whole_weights_is_noted_and_not_applied(
    capsys, tmp_path, monkeypatch, vit_a, image_folder, peft
):
    from transformers.integrations import peft as integration

    folder = with_adapter(changed(vit_a, tmp_path / "t"))
    if peft:
        # transformers would read the adapter, and fail without its library.
        monkeypatch.setattr(integration, "is_peft_available", lambda: True)
    rows = []
    for model in (vit_a, folder):
        code, out, err = compress(capsys, "evaluate", model, "--data", image_folder, "--json")
        assert code == 0, err
        rows.append({key: value for key, value in json.loads(out)["rows"][0].items() if key != "name"})
    assert rows[0] == rows[1]
    assert (
        "note: " in err and "also holds a LORA adapter of some/base (adapter_config.json), which was not applied" in err
    )


# Prefixes

PREFIXES = {
    "module.": "DataParallel",
    "_orig_mod.": "torch.compile",
    "module._orig_mod.": "DataParallel",
    "_orig_mod.module.": "torch.compile",
    "model.": "a wrapper such as a LightningModule",
    "base_model.model.": "peft",
    "_fsdp_wrapped_module.": "FSDP",
}


@pytest.mark.parametrize("prefix", case_params(PREFIXES, ("module.", "model.")))
def test_prefixes_of_wrappers_are_named(capsys, tmp_path, vit_a, prefix):
    from safetensors.torch import load_file, save_file

    folder = changed(vit_a, tmp_path / "t")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {f"{prefix}{name}": value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    line = refused(capsys, "fuse", folder, "-o", tmp_path / "s")
    assert f"their names begin with '{prefix}', as of {PREFIXES[prefix]}" in line


def test_names_of_the_model_itself_are_no_wrapper(capsys, tmp_path):
    from safetensors.torch import load_file, save_file
    from tiny_text import save_text_model

    folder = save_text_model(tmp_path / "t", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.odd.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    line = refused(capsys, "export", folder, "-o", tmp_path / "s")
    assert "missing model.layers.0.mlp.up_proj.weight" in line and "their names" not in line


def test_an_adapter_inside_the_weights_is_named(capsys, tmp_path, vit_a):
    import torch
    from safetensors.torch import load_file, save_file

    folder = changed(vit_a, tmp_path / "t")
    weights = load_file(folder / "model.safetensors")
    name = "vit.encoder.layer.0.attention.attention.query"
    weights[f"{name}.base_layer.weight"] = weights.pop(f"{name}.weight")
    weights[f"{name}.lora_A.default.weight"] = torch.zeros(2, 32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    line = refused(capsys, "fuse", folder, "-o", tmp_path / "s")
    assert "they hold an adapter that is not merged" in line
