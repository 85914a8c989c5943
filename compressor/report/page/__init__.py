"""report.html: everything a run measured and chose on one page, in one file that asks nothing of a network."""
