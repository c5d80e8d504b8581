"""Plot exploitability and scores over the steps of one or more runs, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from spiral.monitor.console import short

Curves = Mapping[str, Sequence[Mapping[str, float]]]
PANEL_INCHES, LETTER_INCHES = 4.2, 0.075


def plot(runs: Curves, path: Path) -> Path | None:
    """Plot the evaluations of one or more runs (label -> rows of metrics.jsonl) into `path`.

    One panel per kind of measure: NashConv of each exact game, score of each game against each player, with 95%
    intervals. Returns None if nothing was evaluated.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    keys = sorted(
        {key for rows in runs.values() for row in rows for key in row if key.endswith(("/nash_conv", "/score"))},
        key=lambda key: (not key.endswith("/nash_conv"), key),
    )
    if not keys:
        return None
    width = PANEL_INCHES * len(keys)
    figure, panels = pyplot.subplots(1, len(keys), figsize=(width, 3.6), squeeze=False, layout="constrained")
    for panel, key in zip(panels[0], keys, strict=True):
        for label, rows in runs.items():
            points = [row for row in rows if key in row]
            steps = [row["step"] for row in points]
            values = [row[key] for row in points]
            (line,) = panel.plot(steps, values, marker="o", markersize=3, label=label)
            if key.endswith("/score"):
                margins = [row.get(key.replace("/score", "/ci95"), 0.0) for row in points]  # one pair has no interval
                low = [value - margin for value, margin in zip(values, margins, strict=True)]
                high = [value + margin for value, margin in zip(values, margins, strict=True)]
                panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        panel.set_title(_title(key), fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
        if key.endswith("/nash_conv"):
            panel.set_ylim(bottom=0)
        else:
            panel.axhline(0, color="black", linewidth=0.8)
    if len(runs) > 1:
        num_columns = max(1, int(width / (0.6 + LETTER_INCHES * max(map(len, runs)))))
        lines, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(lines, labels, fontsize=8, loc="outside lower center", ncols=num_columns)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _title(key: str) -> str:
    """eval/textarena/TicTacToe-v0/vs_random/score becomes a caption."""
    parts = key.removeprefix("eval/").split("/")
    if parts[-1] == "nash_conv":
        return f"{short('/'.join(parts[:-1]))}: NashConv (0 = equilibrium)"
    return f"{short('/'.join(parts[:-2]))}: mean return against {parts[-2].removeprefix('vs_')}"
