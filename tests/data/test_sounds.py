"""Sounds of files, folders and arrays, their transcripts, and the errors of transcripts."""

from __future__ import annotations

import json
import wave

import numpy as np
import pytest
import torch
from datasets import Audio, Dataset
from transformers import ASTConfig, ASTFeatureExtractor, Wav2Vec2Config, Wav2Vec2FeatureExtractor

from compressor.bench.accuracy import Tally
from compressor.bench.transcript_scores import edits, symbols_of_frames
from compressor.data.batches import Batches
from compressor.data.files.sound_files import as_sounds, waveform
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.tasks.table import TASKS
from compressor.models.tasks.task import Task
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions

KINDS = {0: "high", 1: "low"}
CLASSIFIER = ModelSpec.of(
    ASTConfig(num_mel_bins=16, max_length=32, id2label=KINDS, architectures=["ASTForAudioClassification"])
)
SYMBOLS = ModelSpec.of(
    Wav2Vec2Config(
        architectures=["Wav2Vec2ForCTC"], conv_kernel=[10, 3], conv_stride=[5, 2], conv_dim=[8, 8], pad_token_id=0
    )
)


def save_tone(path, pitch, seconds=0.2, rate=16_000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (20_000 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(tone, channels).tobytes())


def batches_of(source, spec, processor, role="train"):
    split = open_split(DataOptions(source=str(source)), role, id2label=spec.labels, task=spec.task, reads=spec.reads)
    return Batches(split, processor, 4, labels=split.label is not None, spec=spec)


def test_a_folder_of_sounds_by_class_is_read(tmp_path):
    pytest.importorskip("soundfile")
    for split in ("train", "test"):
        for kind, pitch in (("high", 2000), ("low", 200)):
            save_tone(tmp_path / split / kind / "a.wav", pitch)
    batches = batches_of(tmp_path, CLASSIFIER, ASTFeatureExtractor(num_mel_bins=16, max_length=32))
    (batch,) = batches
    assert batch["input_values"].shape == (2, 32, 16) and sorted(batch["labels"].tolist()) == [0, 1]
    # The energy of a high tone lies in higher bins.
    energy = batch["input_values"].mean(1).argmax(-1)
    high = batch["labels"].tolist().index(0)
    assert energy[high] > energy[1 - high]


def test_sounds_of_a_table_are_mixed_down_and_resampled(tmp_path):
    pytest.importorskip("soundfile")
    save_tone(tmp_path / "stereo.wav", 300, rate=8_000, channels=2)
    save_tone(tmp_path / "mono.wav", 300)
    dataset = as_sounds(Dataset.from_dict({"file": ["stereo.wav", "mono.wav"]}), "file", tmp_path, "here")
    stereo, mono = (waveform(row["file"], 16_000, "row") for row in dataset)
    assert stereo.shape == mono.shape == (3200,) and np.corrcoef(stereo, mono)[0, 1] > 0.99
    assert np.array_equal(waveform({"array": mono, "sampling_rate": 16_000}, 16_000, "row"), mono)
    assert as_sounds(dataset.cast_column("file", Audio()), "file", tmp_path, "here")[0]["file"]["path"].endswith(
        "stereo.wav"
    )


class Letters:
    """A tokenizer of letters; 0 is the blank, and only capitals are known."""

    unk_token_id, known = 1, {"A": 2, "B": 3, " ": 4}

    def __call__(self, text):
        if isinstance(text, list):
            return {"input_ids": [self(each)["input_ids"] for each in text]}
        return {"input_ids": [self.known.get(letter, 1) for letter in text]}

    def decode(self, ids):
        return "".join({number: letter for letter, number in self.known.items()}[number] for number in ids)


class Both:
    """A feature extractor and a tokenizer."""

    def __init__(self):
        self.feature_extractor, self.tokenizer = Wav2Vec2FeatureExtractor(return_attention_mask=True), Letters()

    def to_dict(self):
        return self.feature_extractor.to_dict()


def test_transcripts_become_symbols_in_the_case_of_the_tokenizer(tmp_path):
    sounds = [[0.1] * 400, [0.2] * 700]
    rows = [{"audio": sound, "text": text} for sound, text in zip(sounds * 2, ["ab", "b a a"] * 2, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    batches = batches_of(tmp_path / "data.jsonl", SYMBOLS, Both())
    (batch,) = batches
    lengths = batch["attention_mask"].sum(-1).tolist()
    assert set(lengths) <= {400, 700} and batch["input_values"].shape == (len(lengths), max(lengths))
    expected = {400: [2, 3], 700: [3, 4, 2, 4, 2]}
    assert [row[row >= 0].tolist() for row in batch["labels"]] == [expected[length] for length in lengths]
    assert batches.references.text([3, 4, 2]) == "B A"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "no column of sounds"),
        ([{"audio": [0.1], "speech": [0.1]}], "several columns of sounds, audio and speech"),
    ],
)
def test_data_without_one_column_of_sounds_is_refused(tmp_path, rows, message):
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows * 3)))
    with pytest.raises(UserError, match=message):
        batches_of(tmp_path / "data.jsonl", SYMBOLS, Both())


def test_a_broken_sound_is_named(tmp_path):
    pytest.importorskip("soundfile")
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(UserError, match=r"cannot read the sound of sample 3 .*a\.wav"):
        waveform({"bytes": None, "path": str(tmp_path / "a.wav")}, 16_000, "sample 3")


@pytest.mark.parametrize(("given", "expected", "count"), [("kitten", "sitting", 3), ("", "ab", 2), ("ab", "ab", 0)])
def test_edits(given, expected, count):
    assert edits(given, expected) == edits(expected, given) == count


def test_error_rates_are_of_frames_without_repeats_blanks_and_padding():
    assert symbols_of_frames(torch.tensor([0, 2, 2, 0, 2, 3, 3, 0]), 0) == [2, 2, 3]
    task = Task("ctc", (), ("wer",), answers="frames", mask="attention_mask")
    frames = torch.tensor([[2, 2, 0, 3, 4, 2], [2, 0, 3, 0, 3, 3]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    tally = Tally(task, references=type("Texts", (), {"text": staticmethod(Letters().decode)}))
    rows = torch.nn.functional.one_hot(frames, 5).float().log()
    tally.add(rows, {"attention_mask": mask}, torch.tensor([[2, 3, 4, 3], [2, 3, -100, -100]]))
    score = tally.score()
    # "AB A" for "AB B", and "AB" for "AB".
    assert score.value("wer") == pytest.approx(1 / 3) and score.value("cer") == pytest.approx(1 / 6)
    assert score.labelled == 2


def test_a_ctc_loss_counts_the_frames_of_each_sound():
    from compressor.ensemble.answers import ANSWERS

    task, answers = TASKS["ctc"], ANSWERS["frames"]
    logits, labels = torch.randn(2, 9, 5), torch.tensor([[2, 3, 2], [3, -100, -100]])
    mask = (torch.arange(9) < torch.tensor([[9], [4]])).long()
    loss = answers.label_loss(task, logits, labels, {"attention_mask": mask})
    alone = [
        answers.label_loss(task, logits[row : row + 1, :count], labels[row : row + 1], {})
        for row, count in enumerate((9, 4))
    ]
    assert loss == pytest.approx(float(sum(alone) / 2), rel=1e-5)
    assert answers.label_loss(task, logits, torch.full((2, 3), -100), {}) == 0


def test_a_list_of_paths_is_read_as_sounds():
    from compressor.api.datasets import splits_of
    from compressor.api.kinds import GivenData

    splits = splits_of(GivenData("texts", ["a.wav", "b.wav"], "the data"), "audio")
    assert splits["train"].read()["audio"][:] == ["a.wav", "b.wav"]
