"""One HTML file about one or more runs, which opens from disk without a network: `spiral report`.

    files -> Source -> headlines, curves, settings, matches -> page

The page's own code is in `assets/`; it is vanilla JavaScript and uPlot.
"""

from spiral.report.write import Written, write_report

__all__ = ["Written", "write_report"]
