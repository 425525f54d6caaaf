"""The instruction table with all its rows loaded."""

from __future__ import annotations

from lifter.x86 import rows_avx, rows_control, rows_integer, rows_sse, rows_string, rows_system, rows_x87
from lifter.x86.rows import TABLE, Form, Resolution, Row, find_row, resolve

__all__ = ["ROW_MODULES", "TABLE", "Form", "Resolution", "Row", "find_row", "resolve"]

ROW_MODULES = (rows_integer, rows_control, rows_string, rows_sse, rows_avx, rows_x87, rows_system)
"""Where the rows are, in the order in which documentation shows them."""
