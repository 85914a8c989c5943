"""What a student takes from its teachers' folders besides weights."""
