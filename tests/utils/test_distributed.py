"""Processes that share a finetune get what one of them would get, and only the first writes and speaks."""

import json

import numpy as np
import pytest
import torch
from command import STAGE, compress, tiny_recipe, write_recipe
from distilling import options, samples, vit
from launched import together
from safetensors.torch import load_file, save_file, save_model
from tiny_text import model_of

from compressor.distillation.distill import train_student
from compressor.distillation.objective import FeatureTargets
from compressor.errors import UnsupportedError, UserError
from compressor.layer_maps import attention_pairs_of
from compressor.utils import distributed

WAYS = {
    "texts": {"label_weight": 0.5, "losses": {"relations": 1.0}, "accumulate": 2},
    "images": {
        "augment": "mixup",
        "steps": 4,
        "validate_every": 2,
        "validation": 0.25,
        "learning_rate": "search",
        "learning_rates": (1e-3, 1e-2),
    },
}


#: What `accelerate launch --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP` tells processes.
SHARED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
AGAIN = ("again/0.safetensors", "again/1.safetensors")


def texts(count=24):
    """Texts of different lengths, some of whose labels are unknown: parts of a batch weigh differently."""
    draw = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        ids, labels = (torch.randint(low, high, (2 + index % 9,), generator=draw) for low, high in ((6, 20), (-1, 3)))
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def tokens(count=24):
    """Texts of one length for a language model."""
    draw = torch.Generator().manual_seed(0)
    made = [torch.randint(6, 20, (8,), generator=draw) for _ in range(count)]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in made]


def train(way, folder):
    """Finetune in one of the ways, and write what came of it into a folder."""
    student, teachers, data = vit(2, width=8), [vit(0), vit(1)], samples()
    if way == "texts":
        student, teachers, data = model_of("tagger"), [model_of("tagger", 1), model_of("tagger", 2)], texts()
    relations = attention_pairs_of(student.config, [teacher.config for teacher in teachers])
    report = train_student(
        student, teachers, [1, 2], data, options(**WAYS[way]), seed=5, work_dir=folder / "work",
        targets=FeatureTargets((), relations),
    )  # fmt: skip
    found = {"loss": report.loss, "judged": report.judged, "search": [one.validation_loss for one in report.search]}
    (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))
    save_file(student.state_dict(), folder / f"{distributed.rank()}.safetensors")


@pytest.fixture
def shared_weights(monkeypatch):
    """FSDP, told to accelerate as its launcher does; that heeds it of GPUs alone, though torch does it on CPUs too."""
    from accelerate import DistributedType, PartialState

    begin = PartialState.__init__

    def as_of_gpus(state, *given, **named):
        begin(state, *given, **named)
        if state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = DistributedType.MULTI_GPU

    monkeypatch.setattr(PartialState, "__init__", as_of_gpus)
    for name, value in SHARED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("way", "shared"),
    [
        ("texts", "batches"),
        ("texts", "weights"),
        ("images", "batches"),
        pytest.param("images", "weights", marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_loss_curve_of_one(tmp_path, request, way, shared):
    """Over images that are mixed within a batch, with a search and judgements; and texts in parts that weigh unlike."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    train(way, tmp_path / "one")
    if shared == "weights":
        request.getfixturevalue("shared_weights")
    together(lambda _: train(way, tmp_path / "two"))
    one, *two = (json.loads((tmp_path / name).read_text()) for name in ("one/0.json", "two/0.json", "two/1.json"))
    assert two[0] == two[1]
    for key in ("loss", "judged", "search"):
        np.testing.assert_allclose(two[0][key], one[key], rtol=1e-4, atol=1e-6)
    first, second = (load_file(tmp_path / "two" / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    work = tmp_path / "two" / "work"
    assert len(list(work.glob("checkpoint-*/finished"))) in (0, 2)
    # Of weights that are shared each process has kept its own part of the optimiser's state.
    assert bool(list(work.rglob("optimizer_0/__1_0.distcp"))) == (shared == "weights")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_weights")
@pytest.mark.parametrize("kind", ["SHARDED_STATE_DICT", pytest.param("FULL_STATE_DICT", marks=pytest.mark.slow)])
def test_shared_weights_are_resumed(tmp_path, monkeypatch, kind):
    """Of a model with tied embeddings, layers that are computed again and a judgement whose samples are one batch."""
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", kind)

    def run(place, stop=None, resume=False):
        def until(step, *_):
            if step == stop:
                raise KeyboardInterrupt

        student = model_of("decoder", 2)
        more = {"recompute": True, "validate_every": 2, "validation": 0.25}
        train_student(
            student, [model_of("decoder", 1)], [1], tokens(), options(**more), seed=5, work_dir=place, resume=resume,
            progress=until,
        )  # fmt: skip
        assert not any(hasattr(weight, "full_tensor") for weight in student.parameters())
        save_model(student, str(place / f"{distributed.rank()}.safetensors"))

    def interrupted(_):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "again", stop=5)

    together(lambda _: run(tmp_path / "once"))
    together(interrupted)
    together(lambda _: run(tmp_path / "again", resume=True))
    once, *again = (load_file(tmp_path / name) for name in ("once/0.safetensors", *AGAIN))
    assert all(torch.equal(once[name], one[name]) for one in again for name in once)


@pytest.mark.parametrize("shared", ["batches", pytest.param("weights", marks=pytest.mark.slow)])
def test_the_first_writes_and_speaks(tmp_path, monkeypatch, request, capfd, vit_a, image_folder, shared):
    monkeypatch.chdir(tmp_path)
    losses = []
    for name in ("one", "two"):
        recipe = write_recipe(tmp_path / f"{name}.yaml", tiny_recipe([vit_a], image_folder, name))
        if name == "one":
            assert compress(capfd, "run", recipe)[0] == 0
        else:
            capfd.readouterr()
            if shared == "weights":
                request.getfixturevalue("shared_weights")

            def work(_, recipe=recipe):
                from compressor.cli import run_command

                assert run_command(["run", str(recipe)]) == 0

            together(work)
            out, err = capfd.readouterr()
            # What torch itself says the command keeps quiet, if it comes before torch.
            said = [line for line in STAGE.sub("", err).splitlines() if "reducer.cpp" not in line]
            assert err.count("building the student") == 1, "progress is of the first process alone"
            assert out.count("written to two") == 1 and not said
        report = json.loads((tmp_path / name / "report.json").read_text())
        losses.append(report["finetune"]["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one.yaml", "two", "two.yaml"]


def test_what_cannot_be_shared(tmp_path, monkeypatch):
    def run(**fields):
        train_student(vit(2), [vit(0)], [1], samples(), options(**fields), seed=0, work_dir=tmp_path)

    with pytest.raises(UserError, match="batch_size 8 cannot be shared by 1 processes in 3 parts"):
        run(accumulate=3)
    with pytest.raises(UserError, match="float16 is for GPUs"):
        run(precision="float16")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UnsupportedError, match="without DeepSpeed"):
        run()
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UnsupportedError, match="--fsdp_version 2"):
        run()
    monkeypatch.setenv("FSDP_VERSION", "2")

    def on_the_cpu(_):
        with pytest.raises(UnsupportedError, match="between GPUs alone"):
            run()

    together(on_the_cpu)
    assert list(tmp_path.iterdir()) == []
