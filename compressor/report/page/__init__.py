"""report.html: one self-contained page of all measurements and choices."""
