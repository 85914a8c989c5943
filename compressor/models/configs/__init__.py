"""Configs of models: read within bounds, checked, before anything is built."""
