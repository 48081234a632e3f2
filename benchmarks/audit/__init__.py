"""Predicted against measured gradients of families of models that others wrote; see docs/audit_table.md."""
