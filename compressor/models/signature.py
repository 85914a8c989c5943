"""What a model's forward pass reads."""

from __future__ import annotations

import inspect
import re
from typing import Any

#: Arguments that steer a pass, repeat another input, or serve the loss alone.
_NO_INPUT = re.compile(
    r"labels?|.*_labels?|(decoder_)?inputs_embeds|past_(?!values|time_features|observed_mask).*|.*cache.*|mems|(decoder_)?position_ids|output_.*|return_.*"
    r"|encoder_outputs|mm_encoder_outputs|.*head_mask|logits_to_keep|.*_positions|interpolate_pos_encoding|kwargs|args"
    r"|self|use_.*|num_.*|head_mask|cls_index|is_impossible|p_mask|lengths|class_labels|mask_labels|vision_feature_.*"
    r"|patch_offsets|future_values|image_embeds|image_hidden_states|image_encoder_embeddings|perceiver_embeddings"
    r"|mask_time_indices"
)


def readable_inputs(model: Any) -> list[str]:
    """Names of the tensors that a model's forward pass reads, in order."""
    parameters = inspect.signature(model.forward).parameters
    names = [p.name for p in parameters.values() if not _NO_INPUT.fullmatch(p.name) and not _is_switch(p)]
    # A decoder alone reads what an encoder would have made; in other models it repeats the encoder's input.
    alone = "input_ids" in names and not {"decoder_input_ids", "encoder_hidden_states"} & parameters.keys()
    return [*names, "encoder_outputs"] if alone and "encoder_outputs" in parameters else names


def required_inputs(model: Any) -> list[str]:
    """Those without a default."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in readable_inputs(model) if parameters[name].default is inspect.Parameter.empty]


def _is_switch(parameter: inspect.Parameter) -> bool:
    """Whether a flag or a number, not a tensor."""
    if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
        return True
    kinds = set(re.findall(r"\w+", str(parameter.annotation))) - {"Optional", "None", "Union", "typing", "builtins"}
    return bool(kinds) and kinds <= {"bool", "int", "float", "str", "class"}
