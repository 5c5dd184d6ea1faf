"""Draws the results that run.py wrote: for each RESULT.json a RESULT.png and a RESULT.svg beside it.

Mid-grey text and no background, so that both read on a white and on a dark page; the figure stands at the bar, so no legend and no grid.
"""

import argparse
import json
import os
import statistics
import sys

GREY = "#808080"
COLOURS = {"penstock": "#2a8fd8", "hand": "#7aa874", "peer": "#b98a4e", "limit": "#9a9a9a"}


def group_of(name, limits):
    if name in limits:
        return "limit"
    if name.startswith("penstock"):
        return "penstock"
    return "hand" if name in ("threads", "ring") else "peer"


def bars(document):
    """Per panel its title and, fastest arm first, (label, group, median, lowest, highest)."""
    arms = []
    for name, runs in document["runs"].items():
        if runs:
            form = runs[-1].get("form", "")
            label = name.partition("_")[0] + f", {form}" if form else name
            arms.append((label, group_of(name, document.get("limits", [])), runs))
    arms.sort(key=lambda arm: -statistics.median(run["mb_per_s"] for run in arm[2]))
    panels = []
    for title, field in (("MB/s (more is better)", "mb_per_s"), ("CPU seconds per GB (less is better)", "cpu_s_per_gb")):
        rows = []
        for label, group, runs in arms:
            values = [float(run[field]) for run in runs]
            rows.append((label, group, statistics.median(values), min(values), max(values)))
        panels.append((title, rows))
    return panels


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(document, stem):
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
                                "axes.edgecolor": GREY, "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "penstock"})
    from matplotlib import pyplot
    panels = bars(document)
    count = len(panels[0][1])
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 1.1 + 0.3 * count), sharey=True, layout="constrained")
    for axis, (title, rows) in zip(axes, panels):
        longest = max(row[4] for row in rows) or 1
        for at, (_, group, value, low, high) in enumerate(rows):
            axis.barh(at, value, color=COLOURS[group], height=0.7)
            axis.plot([low, high], [at, at], color=GREY, linewidth=1.2)
            axis.text(max(value, high) + 0.012 * longest, at, number(value), va="center", color=GREY)
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_yticks(range(count), [row[0] for row in rows])
        axis.set_xlim(0, 1.14 * longest)
        axis.set_xticks([])
        axis.tick_params(length=0)
        for side in ("top", "right", "bottom"):
            axis.spines[side].set_visible(False)
    axes[0].invert_yaxis()
    machine = document["machine"]
    heading = (f"{document['title']}\n{document['rounds']} interleaved rounds, median, line from the lowest to the highest; "
               f"{machine['cpus']} CPUs, Linux {machine['kernel']}, {document['started'][:10]}")
    figure.suptitle(heading, fontsize=9, x=0.01, ha="left", color=GREY)
    for ending, more in (("png", {"dpi": 110}), ("svg", {"metadata": {"Date": None}})):
        figure.savefig(f"{stem}.{ending}", transparent=True, **more)
        print(f"written: {stem}.{ending}", file=sys.stderr)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+", metavar="RESULT.json", help="as bench/compare.py writes them")
    for path in parser.parse_args().results:
        with open(path, encoding="utf-8") as file:
            draw(json.load(file), os.path.splitext(path)[0])


if __name__ == "__main__":
    main()
