"""Pictures of stored runs: one self-contained HTML report, and the panels it is made of."""

from .figures import Panel, panels
from .report import write_report

__all__ = ["write_report", "panels", "Panel"]
