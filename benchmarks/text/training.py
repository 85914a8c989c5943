"""One teacher from its recipe: trained from scratch by the Trainer of transformers, then measured as it was saved."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from benchmarks.common.teachers import Progress, Scores, Trained
from benchmarks.text.corpora import CLASSES, CONTEXT, SENTENCE_TOKENS, Corpus
from benchmarks.text.pairs import restored
from benchmarks.text.recipe import Task, TextRecipe
from compressor.models.folder.save import save_student
from compressor.utils.logging import quiet_transformers

_HEAD: dict[Task, Any] = {
    "sst2": AutoModelForSequenceClassification,
    "shakespeare": AutoModelForCausalLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "domain": AutoModelForCausalLM,
}


def train_teacher(recipe: TextRecipe, corpus: Corpus, folder: Path, progress: Progress) -> Trained:
    """Train by `recipe` and write the teacher, a plain Hugging Face folder, into the existing `folder`.

    Scores are accuracy and loss, or loss and perplexity per token, of an encoder–decoder also the perplexity of targets
    with each other's sources.
    """
    set_seed(recipe.seed)
    model = _HEAD[recipe.task].from_config(_config(recipe, corpus))
    keeper = _KeepBest(recipe.task, progress)
    begun = time.perf_counter()
    with quiet_transformers():
        trainer = _trainer(
            model,
            recipe.task,
            corpus,
            _arguments(folder, recipe),
            train_dataset=corpus.train,
            eval_dataset=corpus.validation,
            callbacks=[keeper],
        )
        trainer.train()
    seconds = time.perf_counter() - begun
    model.load_state_dict(keeper.weights)
    save_student(folder, model.eval(), corpus.tokenizer)
    return Trained(
        validation=score(folder, recipe.task, corpus, corpus.validation),
        test=score(folder, recipe.task, corpus, corpus.test),
        best_step=keeper.step,
        steps=recipe.steps,
        seconds=round(seconds, 1),
        parameters=model.num_parameters(),
    )


def score(folder: Path, task: Task, corpus: Corpus, samples: Any) -> Scores:
    """Load a teacher's folder and measure it on `samples`."""
    with quiet_transformers():
        model = _HEAD[task].from_pretrained(folder)
        if task == "seq2seq":
            return restored(model, corpus.tokenizer, samples)
        trainer = _trainer(model, task, corpus, _arguments(folder), eval_dataset=samples)
        return _scores(task, trainer.evaluate())


class _KeepBest(TrainerCallback):
    """Keeps the weights of the best look in memory: checkpoints of so short a training are not worth their files."""

    def __init__(self, task: Task, progress: Progress) -> None:
        self.task = task
        self.progress = progress
        self.best = -math.inf
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        scores = _scores(self.task, kwargs["metrics"])
        merit = scores["accuracy"] if self.task == "sst2" else -scores["loss"]
        if merit > self.best:
            self.best, self.step = merit, state.global_step
            self.weights = {name: tensor.clone() for name, tensor in kwargs["model"].state_dict().items()}
        self.progress(state.global_step, scores)


def _config(recipe: TextRecipe, corpus: Corpus) -> PreTrainedConfig:
    tokenizer = corpus.tokenizer
    filled: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if recipe.task == "sst2":
        filled["max_position_embeddings"] = SENTENCE_TOKENS
        filled["id2label"] = dict(enumerate(CLASSES))
        filled["label2id"] = {name: index for index, name in enumerate(CLASSES)}
    elif recipe.task == "seq2seq":
        filled["decoder_start_token_id"] = tokenizer.pad_token_id
    else:
        # GPT-2 maps this onto its own n_positions.
        filled["max_position_embeddings"] = CONTEXT
    return AutoConfig.for_model(**recipe.config, **filled)


def _arguments(folder: Path, recipe: TextRecipe | None = None) -> TrainingArguments:
    """The Trainer's arguments, of an evaluation alone if there is no recipe; nothing is written into `folder`."""
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "per_device_eval_batch_size": 64,
        # The Trainer writes this one into the model's config, where a decoder's generation wants it.
        "use_cache": True,
    }
    if recipe is None:
        return TrainingArguments(**common)
    return TrainingArguments(
        **common,
        seed=recipe.seed,
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        label_smoothing_factor=recipe.label_smoothing,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.steps / 10),
        optim="adamw_torch",
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        # Batches of sentences of like length need little padding; stretches of text are all alike.
        train_sampling_strategy="group_by_length" if recipe.task == "sst2" else "random",
    )


def _trainer(
    model: PreTrainedModel, task: Task, corpus: Corpus, arguments: TrainingArguments, **kwargs: Any
) -> Trainer:
    if task == "sst2":
        kwargs |= {"data_collator": DataCollatorWithPadding(corpus.tokenizer), "compute_metrics": _accuracy}
    else:
        arguments.prediction_loss_only = True
        seq2seq = task == "seq2seq"
        kwargs["data_collator"] = DataCollatorForSeq2Seq(corpus.tokenizer, model) if seq2seq else default_data_collator
    trainer = Trainer(model, arguments, **kwargs)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _accuracy(prediction: EvalPrediction) -> Scores:
    return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=-1) == prediction.label_ids))}


def _scores(task: Task, metrics: dict[str, float]) -> Scores:
    loss = metrics["eval_loss"]
    if task == "sst2":
        return {"accuracy": metrics["eval_accuracy"], "loss": loss}
    return {"loss": loss, "perplexity": math.exp(loss)}
