"""Gains, mixed models, permutation, prediction and calibration: arrays and tables only, no torch."""
