"""Sentence-embedding models: what their folders say is read, kept and written."""

import json
import shutil

import pytest
import torch
from tiny_sentences import put, save_sentence_model
from tiny_text import config_of, save_text_model
from transformers import AutoModel, BertModel

from compressor.anatomy.hooks import logits_of
from compressor.errors import UserError
from compressor.models.folder.save import fingerprint, save_student
from compressor.models.folder.weights import load_model
from compressor.models.headless.sentence_pooling import SentencePooling, pooling_of
from compressor.models.load import load_teacher


def inputs(*lengths, left=False):
    longest, ids = max(lengths), []
    for length in lengths:
        words = [6 + (length * place) % 13 for place in range(length)]
        padding = [0] * (longest - length)
        ids.append(padding + words if left else words + padding)
    ids = torch.tensor(ids)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


class TestPooling:
    states, mask = (
        torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([[1] * 4, [1, 1, 0, 0]]),
    )

    @pytest.mark.parametrize(
        ("mode", "pool"),
        [
            ("mean", lambda h: h.mean(0)),
            ("cls", lambda h: h[0]),
            ("lasttoken", lambda h: h[-1]),
            ("max", lambda h: h.amax(0)),
            ("mean_sqrt_len_tokens", lambda h: h.sum(0) / len(h) ** 0.5),
            ("weightedmean", lambda h: (h * torch.arange(1, len(h) + 1)[:, None]).sum(0) / (len(h) * (len(h) + 1) / 2)),
        ],
    )
    @pytest.mark.parametrize("left", [False, True])
    def test_tokens_without_padding_are_pooled(self, mode, pool, left):
        states, mask = (x.flip(1) if left else x for x in (self.states, self.mask))
        pooled = SentencePooling(mode).pool(states, mask)
        for row in range(2):
            assert torch.allclose(pooled[row], pool(states[row][mask[row].bool()]), atol=1e-6)

    def test_padding_changes_nothing(self, tmp_path):
        model = load_model(save_sentence_model(tmp_path / "a"))
        alone, both = inputs(3), inputs(3, 7)
        assert torch.allclose(logits_of(model, alone)[0], logits_of(model, both)[0], atol=1e-5)


class TestFolders:
    def test_a_folder_says_how_tokens_are_pooled(self, tmp_path):
        teacher = load_teacher(str(save_sentence_model(tmp_path / "a", mode="cls_token", normalise=False)))
        assert teacher.spec.task.name == "sentence-embedding"
        assert pooling_of(teacher.config) == SentencePooling("cls")
        batch = inputs(5)
        states = teacher.model(**batch).last_hidden_state
        assert torch.equal(logits_of(teacher.model, batch), states[:, 0])

    def test_newer_releases_name_modules_otherwise(self, tmp_path):
        folder = save_sentence_model(tmp_path / "a")
        put(
            folder / "1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": "max", "include_prompt": True}
        )
        kinds = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling")
        modules = [
            {"idx": i, "name": str(i), "path": "1_Pooling" if i else "", "type": f"sentence_transformers.{kind}"}
            for i, kind in enumerate(kinds)
        ]
        put(folder / "modules.json", modules)
        assert pooling_of(load_model(folder).config) == SentencePooling("max")

    @pytest.mark.parametrize(
        "change",
        [
            {"pooling_mode_max_tokens": True},
            {"include_prompt": False},
            {"word_embedding_dimension": 48},
        ],
    )
    def test_what_is_not_known_is_a_plain_model(self, tmp_path, change):
        folder = save_sentence_model(tmp_path / "a")
        values = json.loads((folder / "1_Pooling/config.json").read_text())
        put(folder / "1_Pooling/config.json", {**values, **change})
        assert load_teacher(str(folder)).spec.task.name == "features"

    def test_what_is_saved_is_read_again(self, tmp_path):
        model = load_model(save_sentence_model(tmp_path / "a", dense=20))
        save_student(tmp_path / "b", model)
        again, batch = load_model(tmp_path / "b"), inputs(4, 6)
        assert logits_of(model, batch).shape == (2, 20)
        assert torch.allclose(logits_of(again, batch), logits_of(model, batch), atol=1e-6)
        assert fingerprint(again) == fingerprint(model)
        assert AutoModel.from_pretrained(tmp_path / "b").config.hidden_size == 32

    def test_the_linear_map_counts_as_weights(self, tmp_path):
        folder = save_sentence_model(tmp_path / "a", dense=20)
        before = fingerprint(folder)
        shutil.copytree(
            save_sentence_model(tmp_path / "b", seed=1, dense=20) / "2_Dense", folder / "2_Dense", dirs_exist_ok=True
        )
        assert fingerprint(folder) != before

    def test_a_linear_map_that_is_missing_or_of_another_width_is_refused(self, tmp_path):
        folder = save_sentence_model(tmp_path / "a", dense=20)
        other = save_sentence_model(tmp_path / "b", dense=20, hidden_size=48)
        shutil.copy(other / "2_Dense/model.safetensors", folder / "2_Dense/model.safetensors")
        with pytest.raises(UserError, match="holds no linear map of vectors of 32 numbers"):
            load_model(folder)
        (folder / "2_Dense/model.safetensors").unlink()
        with pytest.raises(UserError, match=r"has no 2_Dense/model\.safetensors"):
            load_model(folder)

    def test_sentence_transformers_agrees(self, tmp_path):
        library = pytest.importorskip("sentence_transformers")
        folder = save_sentence_model(tmp_path / "a", dense=20)
        texts = ["the good film", "a very dull plot"]
        teacher = load_teacher(str(folder))
        batch = teacher.processor(texts, padding=True, return_tensors="pt")
        expected = library.SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_tensor=True)
        assert torch.allclose(logits_of(teacher.model, batch), expected, atol=1e-5)


class TestWithoutPooler:
    def save(self, folder, seed=0):
        torch.manual_seed(seed)
        save_text_model(folder, "features")
        BertModel(config_of("features"), add_pooling_layer=False).save_pretrained(folder)
        return folder

    def test_a_model_saved_without_its_pooler_is_fused_and_its_student_loads(self, tmp_path):
        import compressor

        names = [str(self.save(tmp_path / name, seed)) for seed, name in enumerate("ab")]
        student = compressor.fuse(names, 0.5).model
        assert student.pooler is None
        save_student(tmp_path / "s", student)
        again = load_model(tmp_path / "s")
        assert again.pooler is None
        assert torch.equal(logits_of(again, inputs(4)), logits_of(student, inputs(4)))

    def test_other_weights_are_still_missed(self, tmp_path):
        folder = self.save(tmp_path / "a")
        config = json.loads((folder / "config.json").read_text())
        put(folder / "config.json", {**config, "num_hidden_layers": 3})
        with pytest.raises(UserError, match="missing"):
            load_model(folder)
