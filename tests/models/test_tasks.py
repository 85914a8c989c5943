"""One table of tasks, and the spec of a model that is made from it."""

import pytest
import torch
from tiny_text import config_of
from transformers import PatchTSTConfig, ViTConfig, Wav2Vec2Config, WhisperConfig

from compressor.data.task_data import TASK_DATA
from compressor.errors import UnsupportedError
from compressor.models.tasks.table import TASKS, check_measurable, find_task
from compressor.models.teacher import ModelSpec


def test_every_task_has_heads_of_its_own_and_a_reader():
    heads = [head for task in TASKS.values() for head in task.heads]
    assert len(heads) == len(set(heads))
    assert TASK_DATA.keys() == TASKS.keys() == {task.name for task in TASKS.values()}


@pytest.mark.parametrize("name", TASKS)
def test_a_class_name_finds_its_task(name):
    for head in TASKS[name].heads:
        # Detectors of a softmax have a weight for places without an object.
        fields = {"eos_coefficient": 0.1} if name == "object-detection" else {}
        config = ViTConfig(architectures=[f"Some{head}"], is_encoder_decoder=name == "seq2seq-lm", **fields)
        assert find_task(config).name == name


@pytest.mark.parametrize("names", [None, [], ["ViTForMagic"]])
def test_a_class_name_without_a_task_is_refused(names):
    with pytest.raises(UnsupportedError, match=r"architecture|known endings: ForImageClassification, .*, Model"):
        ModelSpec.of(ViTConfig(architectures=names))


@pytest.mark.parametrize("name", ["ViTForMaskedImageModeling", "DPTForDepthEstimation", "YolosForObjectDetection"])
def test_heads_of_other_tasks_have_no_score_and_one_line_says_so(name):
    config = ViTConfig(architectures=[name])
    assert find_task(config) is TASKS["unscored"] and ModelSpec.of(config).reads == "image"
    with pytest.raises(UnsupportedError, match=f"score.* {name} .vit. answers: it can be fused and exported only"):
        check_measurable(config, "evaluating", "vit")


def test_the_spec_of_an_image_model():
    config = ViTConfig(architectures=["ViTForImageClassification"], id2label={"0": "cat", "1": "dog"})
    spec = ModelSpec.of(config)
    assert spec.is_image and spec.reads == "image" and spec.labels == {0: "cat", 1: "dog"}
    assert spec.max_length is None and not spec.reads_pairs


def test_the_spec_of_text_models():
    spec = ModelSpec.of(config_of("classifier"))
    assert not spec.is_image and spec.reads == "text" and spec.max_length == 32 and spec.reads_pairs
    assert ModelSpec.of(config_of("decoder")).pad_id == 5 and ModelSpec.of(config_of("t5")).max_length is None


def test_the_spec_of_models_of_sounds():
    assert ModelSpec.of(WhisperConfig(architectures=["WhisperForConditionalGeneration"])).reads == "audio"
    spec = ModelSpec.of(
        Wav2Vec2Config(architectures=["Wav2Vec2ForCTC"], conv_kernel=[10, 3], conv_stride=[5, 2], conv_dim=[8, 8])
    )
    assert spec.reads == "audio" and spec.task.name == "ctc"
    # 21 samples are three frames of ten, every five, and these one of three; 31 are two.
    mask = (torch.arange(40) < torch.tensor([[21], [31], [40]])).long()
    assert spec.task.positions({"attention_mask": mask}, 3).sum(-1).tolist() == [1, 2, 3]
    classifier = ModelSpec.of(Wav2Vec2Config(architectures=["Wav2Vec2ForSequenceClassification"]))
    assert classifier.task.name == "audio-classification"


def test_data_of_other_models_cannot_be_read():
    spec = ModelSpec.of(PatchTSTConfig(architectures=["PatchTSTModel"]))
    with pytest.raises(UnsupportedError, match="patchtst models cannot be read yet"):
        _ = spec.reads


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("MarianMTModel", "seq2seq-lm"),
        ("MarianModel", "features"),
        ("XLMWithLMHeadModel", "masked-lm"),
        ("GPT2LMHeadModel", "causal-lm"),
        ("BartForConditionalGeneration", "seq2seq-lm"),
    ],
)
def test_a_class_is_known_by_the_auto_mappings_not_by_the_end_of_its_name(name, task):
    config = ViTConfig(architectures=[name], is_encoder_decoder=task == "seq2seq-lm")
    assert find_task(config).name == task
