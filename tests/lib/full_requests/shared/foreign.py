"""Fields of other servers, and their names for fields of this one."""

from __future__ import annotations

from support import Json

from offgrid.api.fields.foreign import INERT as INERT_FOREIGN

NOTHING: Json = {
    "add_bos_token": True, "add_special_tokens": True, "allowed_token_ids": [],
    "auto_max_new_tokens": False, "bad_words": [], "banned_tokens": [], "beam_width": 1,
    "best_of": 1, "cfg_scale": 1.0, "character": "", "n": 1,
    "chat_template": "", "do_sample": True, "echo": False, "enable_search": False,
    "encoder_repetition_penalty": 1, "epsilon_cutoff": 0, "eta_cutoff": 0, "guidance_scale": 1,
    "guided_whitespace_pattern": "", "image_data": [], "include_stop_str_in_output": False,
    "instruction_template": "", "kv_transfer_params": {}, "logits_processors": [], "lora": [],
    "lora_path": "", "max_tokens_second": 0, "media_io_kwargs": {}, "mm_processor_kwargs": {},
    "mode": "instruct", "n_discard": 0, "n_probs": 0, "no_repeat_ngram_size": 0,
    "no_stop_trim": False, "num_beams": 1, "parse_tool_calls": True, "penalize_newline": True,
    "penalize_nl": True, "penalty_alpha": 0, "plugins": [], "preset": "",
    "reasoning_budget_message": "", "reasoning_budget_tokens": -1,
    "reasoning_format": "auto", "reasoning_in_content": False, "rep_pen_slope": 1,
    "repetition_decay": 0, "response_fields": [], "return_token_ids": False,
    "return_tokens_as_token_ids": False, "safe_prompt": False,
    "sampler_order": [6, 5, 0, 1, 3, 4, 2], "sampler_priority": [],
    "separate_reasoning": True, "skew": 0, "skip_special_tokens": True, "smoothing_factor": 0,
    "stop_regex": [], "stop_token_ids": [], "stream_reasoning": True,
    "t_max_prompt_ms": 0, "temperature_last": False, "tfs": 1.0, "tfs_z": 1,
    "thinking_forced_open": False,
    "top_a": 0.0, "truncate_prompt_tokens": -1, "use_beam_search": False, "vllm_xargs": {},
}  # fmt: skip
"""Values of foreign fields that ask for nothing."""
NOTES: Json = {
    **dict.fromkeys(INERT_FOREIGN, 1), "cache_salt": "salt", "options": {"num_ctx": 512},
    "return_progress": True,
    "timings_per_token": True, "prediction": {"type": "content", "content": "Once"},
}  # fmt: skip
"""The foreign fields that every endpoint accepts."""
FOREIGN: Json = {**NOTES, **NOTHING}
"""The foreign fields that every endpoint accepts that generates."""
SWITCHES: Json = {
    "think": "low", "thinking": {"type": "enabled"}, "enable_thinking": True,
    "reasoning": {"effort": "low"},
}  # fmt: skip
SAME_SAMPLING: Json = {
    "mirostat_mode": 2, "min_length": 1, "nsigma": 3.0, "random_seed": 7, "sampler_seed": 7,
    "typical": 0.99, "ban_eos_token": True, "rep_pen_range": 32, "repetition_penalty_range": 32,
    "stop_sequence": "###", "stop_sequences": ["###"], "stopping_strings": ["###"],
    "custom_token_bans": [5],
    "dynamic_temperature": True, "dynatemp_low": 0.4, "dynatemp_high": 0.6,
    "reasoning_budget": -1, "thinking_budget": -1, "thinking_budget_tokens": -1,
    "thinking_token_budget": -1,
}  # fmt: skip
SAME: Json = {
    **SAME_SAMPLING, "n_cmpl": 2, "n_predict": 24, "num_predict": 24, "max_new_tokens": 24,
    "max_output_tokens": 24,
}  # fmt: skip
"""Fields that ``generation.GENERATION`` has under other names, with the same values."""
