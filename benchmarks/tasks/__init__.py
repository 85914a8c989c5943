"""Tasks other than choosing a class: teachers, fused students and their scores on data made here."""
