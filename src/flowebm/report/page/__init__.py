"""The HTML report of a run: one page, made from the run's files alone."""

from flowebm.report.page.write import Report as Report
from flowebm.report.page.write import write_html_report as write_html_report
