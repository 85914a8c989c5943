"""What a fusion and a finetune cost in time and memory."""
