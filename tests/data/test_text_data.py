"""Text to model inputs: columns, blocks, masks, targets; nothing is lost, padded away or read twice."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tiny_text import (
    TAGS,
    VOCABULARY,
    config_of,
    save_plain,
    save_sentences,
    save_text_model,
    save_translations,
    save_words,
    sentences,
    tokenizer,
)

from compressor.data.batches import Batches, Samples, packed
from compressor.data.readers.blocks import mask_tokens
from compressor.data.samples import collate
from compressor.data.sources import open_split
from compressor.errors import UserError
from compressor.models.inputs import pad_id
from compressor.models.meta import most_positions
from compressor.models.tasks.table import TASKS, find_task
from compressor.models.tasks.task import IGNORED
from compressor.models.teacher import ModelSpec
from compressor.recipe import DataOptions


def opened(source, config, role="train", **options):
    labels = {int(index): name for index, name in (config.id2label or {}).items()}
    return open_split(
        DataOptions(source=str(source), **options), role, id2label=labels, task=find_task(config), reads="text"
    )


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    line = str(caught.value)
    assert line and "\n" not in line
    return line


def batches_of(
    source, kind, batch_size=4, role="train", labels=True, framed=None, config=None, max_length=None, **more
):
    config = config or config_of(kind)
    framed = kind in ("classifier", "tagger", "masked", "features") if framed is None else framed
    reader = tokenizer(framed=framed, pad=kind != "decoder")
    split = opened(source, config, role, **more)
    return Batches(split, reader, batch_size, labels=labels, spec=ModelSpec.of(config), max_length=max_length)


# Collation


def test_samples_are_filled_up_on_the_right():
    samples = [
        {"input_ids": torch.tensor(ids), "labels": torch.tensor(ids), "attention_mask": torch.ones(len(ids))}
        for ids in ([3, 4, 5], [6])
    ]
    batch = collate(samples, pad=9)
    assert batch["input_ids"].tolist() == [[3, 4, 5], [6, 9, 9]]
    assert batch["labels"].tolist() == [[3, 4, 5], [6, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    bare = collate([{"input_ids": torch.tensor([1, 2])}, {"input_ids": torch.tensor([1])}])
    assert bare["attention_mask"].tolist() == [[1, 1], [1, 0]], "what was filled up is masked even if nobody said so"
    alike = collate([{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor(1)}] * 2)
    assert set(alike) == {"input_ids", "labels"} and alike["labels"].tolist() == [1, 1]


def test_the_padding_token_is_one_that_the_model_has():
    assert pad_id(config_of("classifier")) == 0
    assert pad_id(config_of("decoder")) == 5, "a decoder without one takes its end token"
    assert pad_id(config_of("decoder", eos_token_id=50256)) == 0


# Sentences


@pytest.mark.parametrize("header", [False, True])
def test_labelled_sentences(tmp_path, header):
    source = save_sentences(tmp_path, header=header)
    found = list(batches_of(source, "classifier"))
    assert sum(len(batch["labels"]) for batch in found) == 24
    for batch in found:
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}
        assert batch["input_ids"][:, 0].tolist() == [VOCABULARY.index("[CLS]")] * len(batch["labels"])
        assert batch["attention_mask"].sum(1).max() == batch["input_ids"].shape[1], "padding goes by the batch"
    texts = sentences(24, 0)
    assert [label for batch in found for label in batch["labels"].tolist()] == ["good" in text for text in texts]


def test_a_first_line_that_is_a_sentence_is_no_header(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("the film was very good\tpositive\nthe plot was bad\tnegative\n")
    split = opened(tmp_path, config_of("classifier"))
    assert len(split) == 2 and split.labels.tolist() == [1, 0]


def test_pairs_of_headerless_sentences(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("the film was good\tit is fine\t1\nthe plot\tbad\t0\n")
    split = opened(tmp_path, config_of("classifier"))
    assert split.text == ("sentence1", "sentence2") and split.labels.tolist() == [1, 0]
    batch = next(iter(Batches(split, tokenizer(), 2, labels=False, spec=ModelSpec.of(config_of("classifier")))))
    assert set(batch["token_type_ids"].flatten().tolist()) == {0, 1}


def test_columns_may_be_named(tmp_path):
    rows = [{"title": "a film", "body": "the plot", "stars": 1, "id": str(i)} for i in range(4)]
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    config = config_of("classifier")
    assert "several text columns" in refusal(opened, path, config, label_column="stars")
    split = opened(path, config, label_column="stars", text_column=("title", "body"))
    assert split.text == ("title", "body") and set(split.labels) == {1}
    assert opened(path, config, text_column="body").text == ("body",)
    assert "'head'" in refusal(opened, path, config, text_column="head")


def test_decoders_are_given_no_token_types(tmp_path):
    path = save_plain(tmp_path / "a.txt")
    assert set(next(iter(batches_of(path, "decoder")))) == {"input_ids", "attention_mask", "labels"}


def test_texts_are_cut_to_what_the_model_holds(tmp_path):
    (tmp_path / "train.tsv").write_text("good " * 100 + "\t1\n" + "bad\t0\n")
    (tmp_path / "test.tsv").write_text("bad\t0\n")
    assert next(iter(batches_of(tmp_path, "classifier")))["input_ids"].shape == (2, 32)
    assert next(iter(batches_of(tmp_path, "classifier", max_length=8)))["input_ids"].shape == (2, 8)
    assert next(iter(batches_of(tmp_path, "classifier", max_length=900)))["input_ids"].shape == (2, 32)


def test_roberta_keeps_two_positions_for_padding():
    from transformers import RobertaConfig

    config = RobertaConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=34, architectures=["RobertaForMaskedLM"],
    )  # fmt: skip
    assert most_positions(config) == 32
    assert most_positions(config_of("classifier")) == 32 == most_positions(config_of("decoder"))
    assert most_positions(config_of("t5")) is None


def test_lines_of_plain_text_are_samples_of_a_classifier(tmp_path):
    path = save_plain(tmp_path / "a.txt", 30)
    split = opened(path, config_of("classifier"))
    assert len(split) == 24 and split.label is None and all(text.strip() for text in split.dataset["text"])


# Words


def test_tags_stand_at_the_first_token_of_a_word(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"tokens": ["the good actor", "scene", "is"], "tags": ["PER", "LOC", "O"]}\n' * 4)
    batch = next(iter(batches_of(path, "tagger")))
    # [CLS] the good actor scene is [SEP]: three tokens of the first word.
    assert batch["labels"][0].tolist() == [IGNORED, 1, IGNORED, IGNORED, 2, 0, IGNORED]
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels"}


def test_every_tag_is_kept_whatever_the_batch(tmp_path):
    path = save_words(tmp_path / "words.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    known = sorted(TAGS.index(tag) for row in rows for tag in row["tags"])
    for size in (1, 5):
        found = [*batches_of(path, "tagger", size), *batches_of(path, "tagger", size, role="eval")]
        kept = [batch["labels"][batch["labels"] >= 0] for batch in found]
        assert sorted(torch.cat(kept).tolist()) == known
        assert all((batch["labels"][batch["attention_mask"] == 0] == IGNORED).all() for batch in found)


def test_tags_that_do_not_fit(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"tokens": ["a", "b"], "tags": ["O", "ORG"]}\n' * 4)
    assert "'ORG'" in refusal(opened, path, config_of("tagger"))
    path.write_text('{"tokens": ["a", "b"], "tags": ["O"]}\n' * 4)
    assert "2 words and 1 tags" in refusal(list, batches_of(path, "tagger"))
    path.write_text('{"text": "a b"}\n' * 4)
    assert "no column of lists of words" in refusal(opened, path, config_of("tagger"))


def test_of_several_tag_columns_the_one_that_fits_the_model(tmp_path):
    import datasets
    from datasets import ClassLabel, Dataset, Features, List, Value

    names = {"pos_tags": ["X", "Y"], "ner_tags": list(TAGS)}
    features = Features({"tokens": List(Value("string")), **{n: List(ClassLabel(names=c)) for n, c in names.items()}})
    columns = {"tokens": [["a", "b"]] * 5, "pos_tags": [[0, 1]] * 5, "ner_tags": [[0, 2]] * 5}
    datasets.disable_progress_bars()
    Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    split = opened(tmp_path / "train.parquet", config_of("tagger"))
    assert split.label == "ner_tags" and split.dataset["ner_tags"][0] == [0, 2]


# Blocks


def tokens_of(split):
    return [token for ids in split.dataset["input_ids"] for token in ids]


def test_packing_loses_no_token_of_a_text(tmp_path):
    path = save_plain(tmp_path / "a.txt")
    config, words = config_of("decoder"), tokenizer(framed=False)
    halves = [packed(opened(path, config, role), words, ModelSpec.of(config), 16) for role in ("train", "eval")]
    assert tokens_of(halves[0]) + tokens_of(halves[1]) == words(path.read_text())["input_ids"]
    for half in halves:
        lengths = [len(ids) for ids in half.dataset["input_ids"]]
        assert set(lengths[:-1]) == {16} and 0 < lengths[-1] <= 16
    share = len(tokens_of(halves[1])) / sum(len(tokens_of(half)) for half in halves)
    assert 0.08 < share < 0.12
    assert halves[0].name.endswith("first 90 %") and halves[1].name.endswith("last 10 %")


def test_one_long_line_is_cut_between_words(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" ".join(sentences(100)))
    config, words = config_of("decoder"), tokenizer(framed=False)
    halves = [packed(opened(path, config, role), words, ModelSpec.of(config), 8) for role in ("train", "eval")]
    assert tokens_of(halves[0]) + tokens_of(halves[1]) == words(path.read_text())["input_ids"]
    assert "[UNK]" not in words.convert_ids_to_tokens(tokens_of(halves[1]))


def test_documents_are_told_apart_and_blocks_framed(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "the good film"}\n' * 10)
    (tmp_path / "test.jsonl").write_text('{"text": "the good film"}\n' * 10)
    the, good, film, end = (VOCABULARY.index(word) for word in ("the", "good", "film", "</s>"))
    config = config_of("decoder")
    split = packed(opened(tmp_path, config), tokenizer(framed=False), ModelSpec.of(config), 8)
    assert tokens_of(split) == [the, good, film, end] * 10
    config = config_of("masked")
    split = packed(opened(tmp_path, config), tokenizer(), ModelSpec.of(config), 10)
    first = split.dataset["input_ids"][0]
    assert first == [2, the, good, film, end, the, good, film, end, 3]
    inner = [token for ids in split.dataset["input_ids"] for token in ids[1:-1]]
    assert inner == [the, good, film, end] * 10


def test_only_the_blocks_that_are_wanted_are_tokenised(tmp_path):
    path = save_plain(tmp_path / "a.txt")
    config, words = config_of("decoder"), tokenizer(framed=False)
    whole, some = (packed(opened(path, config), words, ModelSpec.of(config), 16, limit) for limit in (None, 3))
    assert len(some) == 3 and some.dataset["input_ids"][:3] == whole.dataset["input_ids"][:3]


def test_text_that_is_too_little(tmp_path):
    path, config, words = tmp_path / "a.txt", config_of("decoder"), tokenizer(framed=False)
    path.write_text("the good film was bad and the plot dull\n" * 3)
    assert "too few for one block of 32" in refusal(
        lambda: packed(opened(path, config, "eval"), words, ModelSpec.of(config), None)
    )
    assert len(packed(opened(path, config), words, ModelSpec.of(config), 4)) >= 3
    path.write_text("")
    assert "is empty" in refusal(opened, path, config)
    path.write_text("\n\n\n")
    assert "holds no text" in refusal(opened, path, config_of("classifier"))
    assert "leaves no room" in refusal(
        lambda: packed(opened(save_plain(path), config_of("masked")), tokenizer(), ModelSpec.of(config_of("masked")), 2)
    )


def test_a_text_file_beside_images_is_a_note(image_folder, tmp_path):
    import shutil

    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images" / "train" / "readme.txt").write_text("what is here\n")
    assert open_split(DataOptions(source=str(tmp_path / "images")), "train").image == "image"


# Masks


def test_masking_hides_the_same_tokens_whenever_it_is_asked(tmp_path):
    path = save_plain(tmp_path / "a.txt")
    by_size = [list(batches_of(path, "masked", size)) for size in (1, 7)]
    flat = [[(i, l) for batch in found for i, l in zip(batch["input_ids"], batch["labels"])] for found in by_size]  # noqa: E741, B905
    for (ids, labels), (other, again) in zip(*flat, strict=True):
        assert torch.equal(ids, other[: len(ids)]) and torch.equal(labels, again[: len(labels)])
        assert (again[len(labels) :] == IGNORED).all()
    config = config_of("masked")
    calibration = Batches(opened(path, config), tokenizer(), 7, labels=False, spec=ModelSpec.of(config))
    seen = [batch["input_ids"] for batch in calibration]
    assert all(torch.equal(one, batch["input_ids"]) for one, batch in zip(seen, by_size[1], strict=True))
    assert "labels" not in next(iter(calibration))


def test_masking_follows_berts_shares():
    ids = torch.arange(10, 10 + 20_000) % 500 + 10
    ids[::100] = 2
    seen, labels = mask_tokens(ids, mask_id=4, vocabulary=1000, special=(2,), seed=0, sample=3)
    chosen = labels != IGNORED
    assert 0.14 < chosen.float().mean() < 0.16
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(seen[~chosen], ids[~chosen])
    assert not chosen[ids == 2].any()
    masked = (seen == 4)[chosen].float().mean()
    kept = (seen == ids)[chosen].float().mean()
    assert 0.77 < masked < 0.83 and 0.08 < kept < 0.12
    other = mask_tokens(ids, mask_id=4, vocabulary=1000, special=(2,), seed=0, sample=4)[1]
    assert not torch.equal(labels, other)
    short = mask_tokens(torch.tensor([2, 7, 2]), mask_id=4, vocabulary=9, special=(2,), seed=0, sample=0)[1]
    assert short.tolist() == [IGNORED, 7, IGNORED], "at least one token is asked for"


def test_a_tokenizer_without_a_mask(tmp_path):
    path = save_plain(tmp_path / "a.txt")
    assert "no mask token" in refusal(batches_of, path, "masked", framed=False)


# Source and target


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_decoders_are_fed_what_they_should_have_written(tmp_path, kind):
    path = save_translations(tmp_path / "train.jsonl")
    config = config_of(kind)
    from tiny_text import model_of

    model = model_of(kind)
    for batch in batches_of(path, kind):
        assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "labels"}
        counted = batch["decoder_attention_mask"].bool()
        assert torch.equal(counted, batch["labels"] >= 0)
        shifted = model.prepare_decoder_input_ids_from_labels(batch["labels"])
        assert torch.equal(shifted[counted], batch["decoder_input_ids"][counted])
    assert config.decoder_start_token_id == batch["decoder_input_ids"][0, 0]


def test_source_and_target_that_cannot_be_told(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"x": "a", "y": "b"}\n' * 4)
    config = config_of("bart")
    assert "--target-column" in refusal(opened, path, config) and "x, y" in refusal(opened, path, config)
    split = opened(path, config, target_column="x")
    assert (split.text, split.target) == (("y",), "x")
    assert "'z'" in refusal(opened, path, config, target_column="z")
    path.write_text('{"translation": {"en": "a", "de": "b"}}\n' * 4)
    split = opened(path, config, text_column="translation.en", target_column="translation.de")
    assert split.target == "translation.de"


# What is counted, and what is kept


@pytest.mark.parametrize(
    ("kind", "make"),
    [("classifier", save_sentences), ("tagger", save_words), ("masked", save_plain), ("decoder", save_plain),
     ("bart", save_translations)],
)  # fmt: skip
def test_padding_does_not_change_what_counts(tmp_path, kind, make):
    source = make(tmp_path / ("sst" if kind == "classifier" else "data.txt" if make is save_plain else "data.jsonl"))
    task = find_task(config_of(kind))
    counts = []
    for size in (1, 3, 50):
        positions = labels = 0
        for batch in batches_of(source, kind, size):
            given = batch.pop("labels")
            shape = batch["decoder_input_ids" if task.name == "seq2seq-lm" else "input_ids"].shape
            logits = torch.zeros(shape[0], 3) if task.mask is None else torch.zeros(*shape, 3)
            positions += len(task.counted(logits, batch))
            labels += len(task.answered(logits, given)[1])
        counts.append((positions, labels))
    assert len(set(counts)) == 1 and min(counts[0]) > 0


def test_causal_positions_answer_the_next_token():
    logits = torch.randn(2, 4, 9)
    labels = torch.tensor([[1, 2, 3, 4], [5, 6, IGNORED, IGNORED]])
    answers, asked = TASKS["causal-lm"].answered(logits, labels)
    assert asked.tolist() == [2, 3, 4, 6]
    assert torch.equal(answers, torch.stack([logits[0, 0], logits[0, 1], logits[0, 2], logits[1, 0]]))


def test_samples_are_tokenised_once(tmp_path):
    config = config_of("classifier")
    words, calls = tokenizer(), []

    class Counting:
        model_max_length = 64

        def __call__(self, texts, **options):
            calls.extend(texts)
            return words(texts, **options)

        def get_vocab(self):
            return words.get_vocab()

    split = opened(save_sentences(tmp_path), config)
    samples = Samples(split, Counting(), ModelSpec.of(config), labels=True, cache_bytes=1 << 20)
    first = samples.__getitems__([0, 5, 2])
    again = samples.__getitems__([2, 5, 0])
    assert len(calls) == 3 and torch.equal(first[0]["input_ids"], again[2]["input_ids"])
    assert samples[0]["labels"].shape == () and samples[0]["input_ids"].dim() == 1
    bounded = Samples(split, Counting(), ModelSpec.of(config), labels=False, cache_bytes=0)
    calls.clear()
    bounded.__getitems__([0, 1])
    bounded.__getitems__([0, 1])
    assert len(calls) == 4, "memory is bounded"


def test_data_and_teacher_that_do_not_go_together(tmp_path, image_folder):
    config = config_of("classifier")
    assert "holds images, but the teacher reads text" in refusal(opened, image_folder, config)
    split = opened(save_sentences(tmp_path), config)
    assert "no tokenizer" in refusal(Batches, split, None, 4, labels=False, spec=ModelSpec.of(config))
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.csv").write_text("text,label\ngood,positive\nbad,awful\nbad,awful\n")
    assert "'awful' is not one of the model's labels" in refusal(opened, tmp_path / "more", config)


def test_a_decoder_that_classifies_learns_what_padding_is(tmp_path):
    import transformers

    from compressor.models.load import load_teacher

    config = config_of("decoder", pad_token_id=None)
    config.architectures = ["GPT2ForSequenceClassification"]
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer(framed=False, pad=False).save_pretrained(tmp_path)
    teacher = load_teacher(str(tmp_path))
    assert teacher.config.pad_token_id == 5
    ids = torch.tensor([[6, 7, 8], [9, 5, 5]])
    together = teacher.model(input_ids=ids, attention_mask=(ids != 5).long()).logits
    alone = teacher.model(input_ids=ids[1:, :1]).logits
    torch.testing.assert_close(together[1:], alone)


def test_a_folder_of_a_text_model_has_what_is_needed(tmp_path):
    folder = save_text_model(tmp_path / "m", "decoder")
    assert (folder / "tokenizer.json").exists() and math.isfinite(np.float32(1))
