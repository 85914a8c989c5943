"""That a student takes along what lies in its teachers' folders and holds for it, and that the rest is named."""

import json
import os

import pytest
from command import compress
from tiny_text import model_of, save_text_model
from transformers import AutoTokenizer, GenerationConfig

from compressor.export.write import write_companions
from compressor.models.inherited.companions import read_companions
from compressor.models.inherited.generation import carry_generation
from compressor.models.load import load_teacher
from compressor.pipeline.run.former import check_former

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
#: Not known to `compressor.models.headless.sentence_pooling`, so that its files go along as they are.
POOLING = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, "include_prompt": False}
LIBRARY = "sentence_transformers.models"


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def modules(*kinds):
    return [
        {"idx": index, "name": str(index), "path": "" if kind.endswith("Transformer") else f"{index}_{kind}",
         "type": kind if "." in kind else f"{LIBRARY}.{kind}"}
        for index, kind in enumerate(kinds)
    ]  # fmt: skip


@pytest.fixture
def sentence_model(tmp_path):
    """A headless encoder as sentence-transformers saves it."""
    folder = save_text_model(tmp_path / "a", "features")
    put(folder, "modules.json", modules("Transformer", "Pooling", "Normalize"))
    put(folder, "1_Pooling/config.json", POOLING)
    put(folder, "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": False})
    put(folder, "config_sentence_transformers.json", {"__version__": {"torch": "1"}, "prompts": {"query": "q: "}})
    return folder


def taken(*folders):
    return read_companions([load_teacher(str(folder)) for folder in folders])


class TestGeneration:
    def settings(self, *teachers):
        models = []
        for values in teachers:
            model = model_of("llama")
            if values is not None:
                model.generation_config = GenerationConfig(**values)
            models.append((f"t{len(models)}", model))
        student = model_of("llama", seed=1)
        notes = carry_generation(student, models)
        return student.generation_config, notes

    def test_what_all_agree_in_goes_along(self, tmp_path):
        agreed = {"eos_token_id": [3, 5], "temperature": 0.6, "top_p": 0.9, "do_sample": True}
        config, notes = self.settings(agreed, agreed)
        assert notes == () and {key: getattr(config, key) for key in agreed} == agreed
        config.save_pretrained(tmp_path)
        assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == [3, 5]

    def test_what_differs_is_named_and_left_out(self):
        config, notes = self.settings(
            {"eos_token_id": [3, 5], "top_k": 7}, {"eos_token_id": [3, 5], "top_k": 9, "temperature": 0.5}
        )
        assert config.eos_token_id == [3, 5] and config.top_k != 7 and config.temperature != 0.5
        (note,) = notes
        assert "top_k (t0: 7, t1: 9)" in note and "temperature (t0: none, t1: 0.5)" in note

    def test_a_teacher_without_settings_takes_no_part(self):
        config, notes = self.settings({"eos_token_id": [3, 5]}, None)
        assert notes == () and config.eos_token_id == [3, 5]
        before = model_of("llama").generation_config
        assert self.settings(None, None) == (before, ())

    def test_settings_that_transformers_refuses_to_save_anew(self, tmp_path):
        """Published ones sample with a temperature and say do_sample: false."""
        odd = {"temperature": 0.9, "top_p": 0.6, "do_sample": False}
        config, _ = self.settings(odd, odd)
        config.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "generation_config.json").read_text())["temperature"] == 0.9

    def test_settings_of_layers_do_not_hold(self):
        config, notes = self.settings({"alignment_heads": [[3, 1]], "top_k": 7})
        assert getattr(config, "alignment_heads", None) is None and config.top_k == 7
        assert "alignment_heads" in notes[0]


class TestFiles:
    def test_a_sentence_model_keeps_its_modules_at_the_new_width(self, sentence_model, tmp_path):
        found = taken(sentence_model)
        assert found.notes == ()
        student = model_of("features", hidden_size=16)
        for folder in (tmp_path / "s", tmp_path / "s" / "onnx"):
            folder.mkdir()
            write_companions(folder, student, found)
            assert json.loads((folder / "1_Pooling/config.json").read_text()) == {
                **POOLING, "word_embedding_dimension": 16
            }  # fmt: skip
            for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
                assert json.loads((folder / name).read_text()) == json.loads((sentence_model / name).read_text())
            assert AutoTokenizer.from_pretrained(folder)("good film") == AutoTokenizer.from_pretrained(sentence_model)(
                "good film"
            )

    @pytest.mark.parametrize(
        ("kinds", "pooling", "reason"),
        [
            (("Transformer", "Pooling", "Dense"), POOLING, "its module 2_Dense has weights or sizes"),
            (("Transformer", "Pooling"), {**POOLING, "word_embedding_dimension": 48}, "1_Pooling/config.json does not"),
            (("Transformer", "Pooling"), {}, "1_Pooling/config.json does not"),
            (("own.module.Transformer",), POOLING, "own.module.Transformer is code of its own"),
            (("Transformer", "../../Pooling"), POOLING, "code of its own"),
        ],
    )
    def test_modules_that_do_not_hold_are_left_whole(self, sentence_model, kinds, pooling, reason):
        put(sentence_model, "modules.json", modules(*kinds))
        put(sentence_model, "1_Pooling/config.json", pooling)
        found = taken(sentence_model)
        assert not {"modules.json", "1_Pooling/config.json"} & set(found.files)
        assert any("modules.json" in note and reason in note for note in found.notes)
        assert "sentence_bert_config.json" in found.files

    def test_no_code_no_weights_no_links_out(self, sentence_model, tmp_path):
        put(sentence_model, "modeling_own.py", "raise SystemExit")
        put(sentence_model, "training_args.bin", "pickle")
        put(sentence_model, "video_preprocessor_config.json", {"auto_map": {"a": "b"}})
        put(sentence_model, "sentence_bert_config.json", {"model_args": {"trust_remote_code": True}})
        put(tmp_path, "secret", "key")
        os.symlink(tmp_path / "secret", sentence_model / "LICENSE")
        found = taken(sentence_model)
        named = " ".join(found.notes)
        for name in ("modeling_own.py (code", "video_preprocessor_config.json (names code", "LICENSE (a link out"):
            assert name in named
        assert "sentence_bert_config.json (names code" in named and "training_args" not in named
        assert set(found.files) == {
            "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"
        }  # fmt: skip

    def test_links_into_the_cache_of_the_hub_are_followed(self, sentence_model, tmp_path):
        cache = tmp_path / "models--a--b"
        (cache / "blobs").mkdir(parents=True)
        (cache / "snapshots").mkdir()
        os.rename(sentence_model / "modules.json", cache / "blobs" / "0")
        os.symlink(cache / "blobs" / "0", sentence_model / "modules.json")
        os.rename(sentence_model, cache / "snapshots" / "1")
        assert "modules.json" in taken(cache / "snapshots" / "1").files

    def test_what_two_teachers_differ_in_is_named(self, sentence_model, tmp_path):
        other = save_text_model(tmp_path / "b", "features", seed=1)
        put(other, "modules.json", modules("Transformer", "Pooling", "Normalize"))
        put(other, "1_Pooling/config.json", {**POOLING, "pooling_mode_mean_tokens": False})
        put(other, "config_sentence_transformers.json", {"__version__": {"torch": "2"}, "prompts": {"query": "q: "}})
        found = taken(sentence_model, other)
        assert set(found.files) == {"sentence_bert_config.json", "config_sentence_transformers.json"}
        assert "the teachers differ in 1_Pooling/config.json, modules.json: left out" in found.notes

    def test_settings_that_transformers_passes_over_are_named(self, sentence_model):
        put(sentence_model, "generation_config.json", '{"eos_token_id": ')
        assert any("generation_config.json (no JSON" in note for note in taken(sentence_model).notes)

    def test_chat_templates(self, tmp_path):
        folders = [save_text_model(tmp_path / name, "llama") for name in "abc"]
        put(folders[0], "chat_template.jinja", TEMPLATE)
        settings = json.loads((folders[1] / "tokenizer_config.json").read_text())
        put(folders[1], "tokenizer_config.json", {**settings, "chat_template": TEMPLATE})
        for owners in (folders[:2], folders[1:], [folders[2], folders[0]]):
            found = taken(*owners)
            assert found.processor.chat_template == TEMPLATE and found.notes == ()
        found.write(tmp_path, model_of("llama").config)
        assert (tmp_path / "chat_template.jinja").read_text() == TEMPLATE
        put(folders[2], "chat_template.jinja", "other")
        found = taken(folders[0], folders[2])
        assert found.processor.chat_template is None
        assert any("differ in chat_template" in note for note in found.notes)


@pytest.mark.slow
def test_a_run_and_an_export_take_all_along(tmp_path, capsys):
    folders = [save_text_model(tmp_path / name, "llama", seed=seed) for seed, name in enumerate("ab")]
    for folder, top_k in zip(folders, (7, 9), strict=True):
        put(folder, "generation_config.json", {"eos_token_id": [3, 5], "top_k": top_k, "do_sample": True})
        put(folder, "chat_template.jinja", TEMPLATE)
        put(folder, "added_tokens.json", {"</s>": 5})
    flags = ["--no-finetune", "--no-latency", "--no-onnx", "--width", "0.5"]
    code, _, err = compress(capsys, "fuse", *folders, *flags, "-o", tmp_path / "s")
    assert code == 0, err
    assert "generation_config.json: the teachers differ in what is left out: top_k" in err
    settings = json.loads((tmp_path / "s" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [3, 5] and settings["do_sample"] is True and "top_k" not in settings
    assert (tmp_path / "s" / "chat_template.jinja").read_text() == TEMPLATE
    assert (tmp_path / "s" / "added_tokens.json").exists()
    notes = json.loads((tmp_path / "s" / "report.json").read_text())["notes"]
    assert any("top_k" in note for note in notes)
    # An export into the folder finds nothing to replace, and a run may replace all that it wrote.
    teacher = load_teacher(str(tmp_path / "s"))
    write_companions(tmp_path / "s" / "onnx", teacher.model, read_companions([teacher]))
    written = {path.name for path in (tmp_path / "s" / "onnx").iterdir()}
    assert {"generation_config.json", "chat_template.jinja", "added_tokens.json", "tokenizer.json"} <= written
    assert json.loads((tmp_path / "s/onnx/generation_config.json").read_text())["eos_token_id"] == [3, 5]
    check_former(tmp_path / "s")
