"""What speech models say, beside the perplexity of what they should."""

import pytest
import torch

from compressor.bench.accuracy import Tally, new_tally
from compressor.models.tasks.table import TASKS, find_task
from compressor.models.tasks.task import IGNORED

WORDS = ("<end>", "a", "b", "c")


class Texts:
    """References that spell symbols as words."""

    def text(self, symbols):
        return " ".join(WORDS[symbol] for symbol in symbols if symbol)


class Speaker:
    """A model that always says "a b"."""

    device = torch.device("cpu")

    def generate(self, input_features, max_new_tokens, **options):
        assert options == {"num_beams": 1, "do_sample": False}
        return torch.tensor([[1, 2, 0]]).expand(len(input_features), -1)


def whisper():
    from transformers import WhisperConfig

    return WhisperConfig(architectures=["WhisperForConditionalGeneration"])


def scored(model, references):
    labels = torch.tensor([[1, 2, 0, IGNORED], [1, 3, 3, 0], [IGNORED] * 4])
    rows = torch.full((3, 4, len(WORDS)), 0.25).log()
    inputs = {"input_features": torch.zeros(3, 2, 4), "decoder_attention_mask": (labels >= 0).long()}
    tally = Tally(find_task(whisper()), references=references, model=model)
    tally.add(rows, inputs, labels)
    return tally.score()


def test_errors_are_edits_over_expected_words():
    score = scored(Speaker(), Texts())
    # "a b" is right, for "a c c" a word is wrong and one is missing; the third is not known.
    assert score.value("wer") == pytest.approx(2 / 5) and score.value("wer_error") > 0
    assert score.value("cer") == pytest.approx(3 / 8) and score.perplexity == pytest.approx(4)


def test_ensembles_and_files_say_nothing():
    for model, references in ((None, Texts()), (Speaker(), None)):
        score = scored(model, references)
        assert score.value("wer") is None and score.perplexity == pytest.approx(4)


def test_models_are_asked_only_where_they_can_speak():
    from transformers import WhisperForConditionalGeneration

    sizes = {
        f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")
    }
    model = WhisperForConditionalGeneration(type(whisper())(d_model=4, vocab_size=9, pad_token_id=0, **sizes))
    assert new_tally(model, speaks=True).task.metrics == ("perplexity", "wer", "cer")
    assert TASKS["seq2seq-lm"].metrics == ("perplexity",)
