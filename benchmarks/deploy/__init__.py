"""What int8 and float16 cost and save, beside float."""
