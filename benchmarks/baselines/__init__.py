"""The contest: students of one shape, made in every way there is, after the same finetune."""
