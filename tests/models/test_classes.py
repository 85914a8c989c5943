"""Classes of unlike classifiers, matched by name, and heads that answer them."""

from __future__ import annotations

import pytest
import torch
from tiny import save_vit
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, ViTConfig

from compressor.errors import UnsupportedError, UserError
from compressor.models.compatibility import check_compatible
from compressor.models.inherited.class_heads import class_axes, linear_head, take_classes, with_common_classes
from compressor.models.load import load_teacher
from compressor.models.tasks.classes import CommonClasses, match_classes


def config_of(*names, architecture="ViTForImageClassification"):
    return ViTConfig(architectures=[architecture], id2label=dict(enumerate(names)))


def matched(*models, choice="same", student=None):
    named = [(f"m{index}", config_of(*names)) for index, names in enumerate(models)]
    return match_classes(named, choice, student=None if student is None else ("s", config_of(*student)))


@pytest.mark.parametrize(
    ("choice", "names", "numbers"),
    [
        ("union", "abcde", ((0, 1, 2, None, None), (2, None, 0, 1, 3))),
        ("first", "abc", ((0, 1, 2), (2, None, 0))),
        ("intersection", "ac", ((0, 2), (2, 0))),
    ],
)
def test_classes_are_matched_by_name(choice, names, numbers):
    assert matched("abc", "cdae", choice=choice) == CommonClasses(tuple(names), numbers)


def test_the_same_classes_need_no_choice():
    assert matched("abc", "abc") is None
    assert matched("abc", "cab") == CommonClasses(("a", "b", "c"), ((0, 1, 2), (1, 2, 0)))
    assert matched(("Cat", "dog"), ("dog ", "cat"), choice="union") == CommonClasses(("Cat", "dog"), ((0, 1), (1, 0)))


def test_case_counts_where_it_tells_classes_apart():
    assert matched(("a", "A"), ("A", "a")) == CommonClasses(("a", "A"), ((0, 1), (1, 0)))


def test_a_student_keeps_its_classes():
    common = matched("ab", "cd", choice="union", student="dcba")
    assert common == CommonClasses(tuple("dcba"), ((None, None, 1, 0), (1, 0, None, None), (0, 1, 2, 3)))
    with pytest.raises(UserError, match="--classes"):
        matched("ab", "ab", student="abc")


def test_numbers_are_names_where_they_are_not_those_of_their_places():
    common = matched("01234", "56789", choice="union")
    assert common is not None and common.names == tuple("0123456789")
    with pytest.raises(UserError, match="no names"):
        matched("012", "01234", choice="union")


@pytest.mark.parametrize(
    ("models", "choice", "said"),
    [
        (
            ("abc", "cdae"),
            "same",
            r"m0 has b, which m1 lacks; m1 has d, e, which m0 lacks: .*--classes union, first or intersection",
        ),
        ((("LABEL_0", "LABEL_1"), ("x", "y")), "union", "m0 have no names .*m1 by .*id2label"),
        ((("x", "y"), ("LABEL_0", "LABEL_1", "LABEL_2")), "union", "m1 have no names .*m0"),
        (("aab", "abc"), "union", "m0 has several of the name 'a'"),
        (("ab", "bc"), "intersection", "1 class in common"),
        (("ab", "cd"), "intersection", "no classes in common"),
        (("ab", "cd"), "first", "m1 has none"),
    ],
)
def test_what_cannot_be_matched_is_refused(models, choice, said):
    with pytest.raises(UserError, match=said):
        matched(*models, choice=choice)


def test_taggers_are_refused_but_for_their_order():
    named = [(name, config_of(*name, architecture="BertForTokenClassification")) for name in ("OAB", "OBA", "OC")]
    assert match_classes(named[:2]) is not None
    with pytest.raises(UnsupportedError, match="token-classification"):
        match_classes([named[0], named[2]], "union")


def test_models_without_classes_have_nothing_to_choose():
    named = [("m", ViTConfig(architectures=["ViTModel"]))]
    assert match_classes(named) is None
    with pytest.raises(UserError, match="m has no classes"):
        match_classes(named, "union")


def small(kind):
    torch.manual_seed(0)
    names = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    if kind == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        architectures = ["BertForSequenceClassification"]
        config = BertConfig(architectures=architectures, vocab_size=20, **sizes, **names)
        return BertForSequenceClassification(config).eval()
    sizes = {"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "pad_token_id": 0}
    architectures = ["GPT2ForSequenceClassification"]
    return GPT2ForSequenceClassification(GPT2Config(architectures=architectures, **sizes, **names)).eval()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@torch.no_grad()
def test_a_head_answers_other_classes(kind):
    """Known classes keep their logits, one that is lacking gets their mean; the model itself stays."""
    model, tokens = small(kind), torch.randint(1, 20, (6, 5))
    before = model(tokens).logits
    common = CommonClasses(("x", "c", "a"), ())
    taken = take_classes(model, common, (None, 2, 0))
    after = taken(tokens).logits
    torch.testing.assert_close(after[:, 1:], before[:, [2, 0]])
    torch.testing.assert_close(after[:, 0], before.mean(1))
    torch.testing.assert_close(model(tokens).logits, before)
    assert taken.config.id2label == {0: "x", 1: "c", 2: "a"} and taken.config.label2id == {"x": 0, "c": 1, "a": 2}
    assert taken.config.num_labels == taken.num_labels == 3 and model.config.id2label[0] == "a"
    heads = set(class_axes(model.config))
    own = dict(model.named_parameters())
    assert all((own[name] is value) == (name not in heads) for name, value in taken.named_parameters())


def test_a_saved_model_has_the_other_classes(tmp_path):
    model = take_classes(small("bert"), CommonClasses(("x", "c", "a", "b"), ()), (None, 2, 0, 1))
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.id2label == {0: "x", 1: "c", 2: "a", 3: "b"}
    tokens = torch.randint(1, 20, (2, 5))
    torch.testing.assert_close(again.eval()(tokens).logits, model(tokens).logits)


def test_only_one_linear_head_can_learn_classes():
    assert linear_head(small("gpt2"))[0] == "score"
    model = small("gpt2")
    model.score = torch.nn.Sequential(model.score, torch.nn.Tanh())
    with pytest.raises(UnsupportedError, match=r"one linear head, and .* score \(Sequential\)"):
        linear_head(model)


@torch.no_grad()
def test_teachers_of_another_order_are_permuted(tmp_path, vit_a):
    other = save_vit(tmp_path / "other", seed=4, classes=("bee", "ant", "dog", "cat"))
    teachers = [load_teacher(str(folder)) for folder in (vit_a, other)]
    check_compatible(teachers)
    first, second = with_common_classes(teachers)
    assert first is teachers[0] and second.spec.labels == first.spec.labels and not second.lacking
    assert "another order" in second.notes[-1] and second.fingerprint == teachers[1].fingerprint
    pixels = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(second.model(pixels).logits, teachers[1].model(pixels).logits.flip(1))
