"""The `Trainer` of transformers with an `Objective`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer

from compressor.distillation.checkpoints import BEST, START_ANEW, read_as_user_error
from compressor.distillation.checks import TrainingSamples
from compressor.distillation.damage import WEIGHTS, replace_best
from compressor.distillation.dataset import TrainingStream
from compressor.distillation.memory import layer_classes
from compressor.distillation.objective import Objective
from compressor.errors import UserError
from compressor.utils import distributed


class DistillationTrainer(Trainer):
    """Trains on a stream of samples; checkpoints use the modules' names.

    Sharded weights are trained in a copy; `gather` copies them back.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        stream: TrainingStream,
        objective: Objective,
        validation: TrainingSamples | None,
        **kwargs: Any,
    ) -> None:
        #: The model that is trained; `fully_shard` keeps its identity.
        self.trained = copy.deepcopy(student) if distributed.is_sharded() else student
        super().__init__(
            self.trained,
            train_dataset=stream,
            eval_dataset=validation,
            data_collator=objective.collate,
            **kwargs,
        )
        if (plugin := getattr(self.accelerator.state, "fsdp_plugin", None)) is not None:
            # The default, the model's own list, includes BERT's embeddings, on which accelerate fails.
            plugin.transformer_cls_names_to_wrap = plugin.transformer_cls_names_to_wrap or layer_classes(student)
        self.validation: TrainingSamples = validation or []
        self.student = student
        self.objective: Objective = objective
        self.stream = stream
        #: Whether a batch is split over processes or accumulation steps.
        self.splits_batch = self.args.world_size * self.args.gradient_accumulation_steps > 1
        #: `Objective.counts` of the whole batch.
        self.totals: list[float] | None = None
        # The losses of the parts add up to that of the batch: the Trainer must not divide them.
        self.compute_loss_func = _never_called

    def gather(self) -> None:
        """Copy trained weights to the student, in all processes."""
        if distributed.is_sharded():
            distributed.gather_weights(self.trained, self.student)

    def get_batch_samples(self, *arguments: Any) -> tuple[list[dict[str, Tensor]], None]:
        """This process's parts of a batch; sets `totals`."""
        parts, _ = super().get_batch_samples(*arguments)
        if self.splits_batch:
            counts = [sum(column) for column in zip(*map(self.objective.counts, parts), strict=True)]
            self.totals = distributed.all_sum(counts, self.args.device)
        return parts, None

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return SequentialSampler(self.stream)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        # No dropout, as in the fusion: at the scales of a fused student its noise drowns the signal.
        model.eval()
        done = self.state.global_step / self.state.max_steps
        loss, outputs = self.objective.loss(model, inputs, done, self.totals)
        if self.args.world_size > 1:
            # Gradients and the logged loss are means over the processes.
            loss = loss * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The objective on validation samples."""
        metrics = {"eval_loss": self.objective.evaluate(self.trained, self.validation, self.args.device)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.state.global_step == 0:
            # The Trainer calls this itself after later evaluations.
            self._determine_best_metric(metrics, None)
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        better = super()._determine_best_metric(metrics, trial)
        if better:
            self.gather()
        if better and self.args.should_save:
            folder = Path(self.args.output_dir or ".") / BEST
            folder.mkdir(exist_ok=True)
            partial = folder / f".{WEIGHTS}.partial"
            safetensors.torch.save_model(self.student, str(partial))
            replace_best(partial, folder / WEIGHTS)
        return better

    # transformers saves some parameters under older names, and its Trainer silently skips unknown names when it
    # resumes.  Only this class reads these checkpoints, so they use the names of the modules.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the gathered weights in the main process."""
        self.gather()
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.student, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with read_as_user_error(Path(resume_from_checkpoint) / WEIGHTS):
            safetensors.torch.load_model(self.student, Path(resume_from_checkpoint) / WEIGHTS)
        if distributed.is_sharded():
            distributed.scatter_weights(self.student, self.trained)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        with read_as_user_error(folder := Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
            if not distributed.is_sharded():
                self._check_moments(folder)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with read_as_user_error(Path(checkpoint)):
                super()._load_rng_state(checkpoint)

    def _check_moments(self, checkpoint: Path) -> None:
        """Raise a `UserError` for an optimiser of other weights."""
        optimizer = self.optimizer
        assert optimizer is not None
        state = optimizer.state
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for name in ("exp_avg", "exp_avg_sq"):
                    moment = state.get(parameter, {}).get(name)
                    if not isinstance(moment, Tensor) or moment.shape != parameter.shape:
                        raise UserError(
                            f"cannot go on from {checkpoint}: its optimiser is of other weights; {START_ANEW}"
                        )


def _never_called(*_: Any, **__: Any) -> Any:
    raise AssertionError("the trainer computes its loss itself")
