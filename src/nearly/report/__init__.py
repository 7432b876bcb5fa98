"""Reports: what a race found, on one self-contained page with its pictures."""

from nearly.core.files import check_folder
from nearly.report.write import write_report

__all__ = ["check_folder", "write_report"]
