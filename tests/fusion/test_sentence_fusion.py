"""Fusing sentence-embedding models: by their similarities, at their own or a teacher's dimension."""

import json

import pytest
import torch
from command import compress
from tiny_sentences import save_scored_pairs, save_sentence_model
from tiny_text import save_text_model, sentences

import compressor
from compressor.anatomy.hooks import logits_of
from compressor.ensemble.answers import ANSWERS, ensemble_predictions
from compressor.errors import UserError
from compressor.models.folder.weights import load_model
from compressor.models.load import load_teacher

TEXTS = sentences(96, 2)


def similarities(models, name):
    """Cosines of texts that were not seen, by the ensemble of models."""
    batch = load_teacher(name).processor(sentences(20, 7), padding=True, return_tensors="pt")
    rows = ensemble_predictions(models, [1.0] * len(models), batch)
    return rows @ rows.T


class TestFusion:
    def test_a_model_comes_back_at_full_width_and_answers_as_an_embedding(self, tmp_path):
        name = str(save_sentence_model(tmp_path / "a"))
        result = compressor.fuse([name], 1.0, TEXTS)
        assert torch.allclose(similarities([result.model], name), similarities([load_model(name)], name), atol=1e-2)
        result.save(tmp_path / "s")
        assert json.loads((tmp_path / "s/1_Pooling/config.json").read_text())["word_embedding_dimension"] == 32
        assert load_teacher(str(tmp_path / "s")).spec.task.name == "sentence-embedding"

    def test_teachers_of_other_widths_are_compared_by_their_similarities(self, tmp_path):
        names = [str(save_sentence_model(tmp_path / "a")), str(save_sentence_model(tmp_path / "b", 1, hidden_size=48))]
        result = compressor.fuse(names, 0.5, TEXTS, effort="fast")
        assert result.model.config.hidden_size == 24
        choice = result.report["choice"]
        assert all("held_out_kl" in entry for entry in choice["candidates"]) and result.report["projection"] is None
        assert similarities([load_model(name) for name in names], names[0]).shape == (20, 20)


class TestKeptDimension:
    def test_an_index_stays_valid(self, tmp_path):
        name = str(save_sentence_model(tmp_path / "a"))
        result = compressor.fuse([name], 0.75, TEXTS, keep_dim=True, effort="fast")
        assert result.report["projection"]["dimension"] == 32
        batch = load_teacher(name).processor(sentences(30, 7), padding=True, return_tensors="pt")
        kept, teacher = (logits_of(model, batch) for model in (result.model, load_model(name)))
        # The nearest of the teacher's vectors is often that of the same text; by chance it is one in thirty.
        nearest = (kept @ teacher.T).argmax(1) == torch.arange(len(kept))
        assert kept.shape == teacher.shape and nearest.float().mean() > 0.3
        result.save(tmp_path / "s")
        again = load_model(tmp_path / "s")
        assert torch.allclose(logits_of(again, batch), kept, atol=1e-5)

    def test_a_teacher_with_a_linear_map_has_a_student_with_one(self, tmp_path):
        name = str(save_sentence_model(tmp_path / "a", dense=20))
        result = compressor.fuse([name], 0.5, TEXTS, effort="fast")
        assert result.report["projection"]["dimension"] == 20

    def test_what_cannot_be_is_refused_in_one_line(self, tmp_path):
        sentence, plain = save_sentence_model(tmp_path / "a"), save_text_model(tmp_path / "b", "classifier")
        with pytest.raises(UserError, match="is fitted to texts: give data"):
            compressor.fuse([str(sentence)], 0.5, keep_dim=True)
        with pytest.raises(UserError, match=r"keep_dim .* is about sentence-embedding models"):
            compressor.fuse([str(plain)], 0.5, TEXTS, keep_dim=True)


@pytest.mark.slow
def test_the_command_writes_a_folder_of_sentence_transformers(tmp_path, capsys):
    folder, pairs = save_sentence_model(tmp_path / "a"), save_scored_pairs(tmp_path / "pairs.csv")
    flags = ["--steps", 4, "--no-latency", "--effort", "fast", "--keep-dim", "-d", pairs, "-o", tmp_path / "s"]
    code, _, err = compress(capsys, "fuse", folder, *flags)
    assert code == 0, err
    report = json.loads((tmp_path / "s/report.json").read_text())
    row = report["table"][-1]
    assert {name for name in ("similarity", "neighbours", "spearman") if row.get(name) is not None} == {
        "similarity", "neighbours", "spearman"
    }  # fmt: skip
    assert report["onnx"]["files"]["onnx/model.onnx"]["outputs"] == ["last_hidden_state", "sentence_embedding"]
    card = (tmp_path / "s/README.md").read_text()
    assert "pipeline_tag: sentence-similarity" in card and "SentenceTransformer(" in card
    given = load_teacher(str(tmp_path / "s"))
    batch = given.processor(["the good film"], return_tensors="pt")
    written = json.loads((tmp_path / "s/modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in written] == ["Transformer", "Pooling", "Dense", "Normalize"]
    library = pytest.importorskip("sentence_transformers")
    expected = library.SentenceTransformer(str(tmp_path / "s"), device="cpu").encode(["the good film"])
    assert torch.allclose(logits_of(given.model, batch), torch.from_numpy(expected), atol=1e-5)


def test_distillation_needs_no_labels(tmp_path):
    name = str(save_sentence_model(tmp_path / "a"))
    fused = compressor.fuse([name], 0.5, TEXTS, effort="fast")
    before = similarities([fused.model], name)
    compressor.distill(fused, [name], TEXTS, work_dir=tmp_path / "w", steps=40, batch_size=16, learning_rate=3e-3)
    target = similarities([load_model(name)], name)
    assert (similarities([fused.model], name) - target).norm() < (before - target).norm()
    assert ANSWERS["embeddings"].agree(before, target) is None


def test_labels_are_refused_before_anything_is_fused(tmp_path, capsys):
    folder, pairs = save_sentence_model(tmp_path / "a"), save_scored_pairs(tmp_path / "pairs.csv")
    code, _, err = compress(capsys, "fuse", folder, "--label-weight", 1, "-d", pairs, "-o", tmp_path / "s")
    assert code == 2 and "labels only score them" in err
    code, _, err = compress(capsys, "fuse", folder, "--keep-dim", "-o", tmp_path / "s")
    assert code == 2 and "is fitted to texts: give data" in err
