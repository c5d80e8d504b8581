// Curves: one uPlot per chart, drawn when it comes into view, all with the same options and the same zoom.

const NUM_COLOURS = 8;

class Charts {
  constructor(data, form) {
    this.runs = data.runs;
    this.form = form;
    this.drawn = new Map(); // figure -> its uPlots' boxes, or null if there is nothing to draw
    this.range = null; // zoom: [from, to], or null
    this.figures = [];
    const watch = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting && !this.drawn.has(target)) this.draw(target);
    }, { rootMargin: "300px" });
    for (const grid of document.querySelectorAll("[data-section]")) {
      for (const chart of data.sections[grid.dataset.section]) {
        const stacks = chart.kind === "stack" ? this.runs.map((_, run) => [run]) : [this.runs.map((_, run) => run)];
        for (const runs of stacks) {
          const figure = this.figure(chart, runs);
          grid.append(figure.element);
          this.figures.push(figure);
          watch.observe(figure.element);
        }
      }
    }
    new ResizeObserver(() => this.resize()).observe(document.getElementById("curves"));
    form.addEventListener("input", (event) => this.changed(event.target.name));
    form.addEventListener("reset", () => setTimeout(() => { this.range = null; this.changed("named"); this.redraw(); }));
    form.addEventListener("submit", (event) => event.preventDefault());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  option(name) {
    const field = this.form.elements[name];
    return field.type === "checkbox" ? field.checked : field.value;
  }

  shownRuns() {
    const boxes = this.form.querySelectorAll("[name=run]");
    return boxes.length ? [...boxes].filter((box) => box.checked).map((box) => Number(box.value)) : [0];
  }

  figure(chart, runs) {
    const name = runs.length === 1 && this.runs.length > 1 ? `${chart.title}, ${this.runs[runs[0]].label}` : chart.title;
    const summary = h("span");
    const plot = h("div.plot", { role: "img" });
    const legend = h("div.legend");
    const element = h("figure.chart", {}, h("figcaption", {}, plain(name), summary), plot, legend);
    const figure = { chart, runs, name, element, plot, legend, summary };
    const ends = runs.length === 1 || this.runs.length === 1 ? this.ends(chart, runs[0]) : [];
    if (chart.kind !== "stack" && chart.lines.length === 1 && ends.length) summary.append(ends.map((end) => number(end)).join(" → "));
    plot.setAttribute("aria-label", `${plain(name)}. ${this.inWords(chart, runs)}`);
    return figure;
  }

  ends(chart, run) {
    const values = (this.runs[run].columns[chart.lines[0][0]] || []).filter((value) => value != null);
    return values.length > 1 ? [values[0], values.at(-1)] : values;
  }

  // What a screen reader says of a chart.
  inWords(chart, runs) {
    const parts = [];
    for (const run of runs) {
      for (const [key, label] of chart.lines) {
        const { columns } = this.runs[run];
        const at = (columns[key] || []).map((value, row) => (value == null ? -1 : row)).filter((row) => row >= 0);
        if (!at.length) continue;
        const [first, last] = [at[0], at.at(-1)].map((row) => `${number(columns[key][row])} at step ${columns.step[row]}`);
        parts.push(`${[this.runs.length > 1 ? this.runs[run].label : "", label].filter(Boolean).join(", ")} ${first}, ${last}`);
      }
    }
    return plain(parts.join("; "));
  }

  changed(name) {
    if (name === "named") {
      const words = this.option("named").toLowerCase().split(/\s+/);
      for (const { element, chart } of this.figures) {
        const text = `${chart.title} ${chart.lines.flat().join(" ")}`.toLowerCase();
        element.hidden = !words.every((word) => text.includes(word));
      }
    } else if (name === "from" || name === "to") {
      const [from, to] = ["from", "to"].map((end) => (this.option(end) === "" ? null : Number(this.option(end))));
      this.zoom(from == null && to == null ? null : [from ?? -Infinity, to ?? Infinity], false);
    } else {
      if (name === "x") this.range = null;
      this.redraw();
    }
  }

  // The zoom; where it is open, up to the ends of what is drawn. A logarithmic axis has no place for 0.
  xRange(low, high) {
    const [from, to] = this.range;
    const first = from === -Infinity || (this.option("logx") && from <= 0) ? low : from;
    const last = to === Infinity ? high : to;
    return first < last ? [first, last] : [low, high];
  }

  zoom(range, write = true) {
    this.range = range && range[1] > range[0] ? range : null;
    if (write) {
      this.form.elements.from.value = this.range ? Number(this.range[0].toPrecision(4)) : "";
      this.form.elements.to.value = this.range ? Number(this.range[1].toPrecision(4)) : "";
    }
    this.redraw();
  }

  redraw() {
    for (const element of [...this.drawn.keys()]) this.draw(element);
  }

  resize() {
    for (const plot of this.drawn.values()) {
      const width = plot && plot.root.parentElement.clientWidth;
      if (width && width !== plot.width) plot.setSize({ width, height: plot.height });
    }
  }

  draw(element) {
    const figure = this.figures.find((one) => one.element === element);
    const old = this.drawn.get(element);
    if (old) old.destroy();
    const lines = figure.chart.kind === "stack" ? this.stacked(figure) : this.lines(figure);
    figure.plot.replaceChildren();
    figure.legend.replaceChildren(...this.legend(lines));
    if (!lines.some((line) => line.points[0].length)) {
      figure.plot.append(h("p.dim", {}, "nothing to draw"));
      this.drawn.set(element, null);
      return;
    }
    this.drawn.set(element, this.plot(figure, lines));
  }

  legend(lines) {
    const named = lines.filter((line) => line.label && !line.faint && line.points[0].length);
    return (named.length > 1 ? named : []).map((line) =>
      h("span", {}, h("i", { style: { background: line.stroke } }), plain(line.label)));
  }

  // The lines of a chart: {label, points: [xs, ys], stroke, dash, low, high}; low and high bound an interval.
  lines({ chart, runs }) {
    const many = this.runs.length > 1;
    const visible = this.shownRuns().filter((run) => runs.includes(run));
    const smoothing = Number(this.option("smoothing"));
    const found = [];
    for (const run of visible) {
      chart.lines.forEach(([key, label], at) => {
        const points = this.points(run, key);
        const stroke = resolved(`--c${(many ? run : at) % NUM_COLOURS}`);
        const line = { key, run, stroke, dash: many && at ? [[5, 4], [2, 3]][(at - 1) % 2] : [], points,
          label: [many ? this.runs[run].label : "", label].filter(Boolean).join(", ") };
        const margin = chart.margin[key];
        if (margin) line.interval = this.points(run, key, (row) => this.runs[run].columns[margin]?.[row] ?? 0);
        if (smoothing > 0 && points[0].length > 12) {
          found.push({ ...line, faint: true, label: "", interval: null });
          line.points = [points[0], smoothed(points[1], smoothing)];
        }
        found.push(line);
      });
    }
    return found;
  }

  // Parts of a whole: the topmost line first, each filled down to the next.
  stacked({ chart, runs: [run] }) {
    if (!this.shownRuns().includes(run)) return [];
    const { columns } = this.runs[run];
    const rows = columns[this.option("x")].map((_, row) => row).filter((row) => columns["perf/step_s"]?.[row] != null);
    const totals = rows.map(() => 0);
    const xs = rows.map((row) => columns[this.option("x")][row]);
    const layers = chart.lines.map(([key, label], at) => {
      const values = rows.map((row) => columns[key]?.[row] ?? 0);
      values.forEach((value, place) => { totals[place] += value; });
      const stroke = resolved(`--c${[0, 1, 2, 7][at % 4]}`);
      return { key, run, label, stroke, dash: [], points: [xs, [...totals]], values, filled: true };
    });
    return layers.reverse();
  }

  points(run, key, margin = null) {
    const { columns } = this.runs[run];
    const [xs, ys] = [columns[this.option("x")], columns[key] || []];
    const [logX, logY] = [this.option("logx"), this.option("logy")];
    const rows = ys.map((_, row) => row).filter(
      (row) => ys[row] != null && (!logX || xs[row] > 0) && (!logY || ys[row] > 0));
    const at = rows.map((row) => xs[row]);
    if (!margin) return [at, rows.map((row) => ys[row])];
    const floor = logY ? 1e-6 : -Infinity;
    return [at, rows.map((row) => Math.max(floor, ys[row] - margin(row))), rows.map((row) => ys[row] + margin(row))];
  }

  plot(figure, lines) {
    const [ink, grid, bad] = ["--dim", "--line", "--bad"].map(resolved);
    const tables = [];
    const series = [{}];
    const bands = [];
    for (const line of lines) {
      tables.push(line.points);
      const few = line.points[0].length < 40;
      series.push({ label: line.label, stroke: line.faint ? alpha(line.stroke, 0.25) : line.stroke, width: line.faint ? 1 : 1.8,
        dash: line.dash, spanGaps: true, points: { show: few && !line.faint && !line.filled, size: 5 },
        fill: line.filled && line === lines.at(-1) ? alpha(line.stroke, 0.6) : undefined, line });
      if (line.filled && line !== lines.at(-1)) bands.push({ series: [series.length - 1, series.length], fill: alpha(line.stroke, 0.6) });
      if (line.interval) {
        tables.push([line.interval[0], line.interval[1]], [line.interval[0], line.interval[2]]);
        const bound = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, bound: true };
        series.push({ ...bound }, { ...bound });
        bands.push({ series: [series.length - 1, series.length - 2], fill: alpha(line.stroke, 0.15) });
      }
    }
    const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 }, font: "11px system-ui" };
    const [logX, logY] = [this.option("logx"), this.option("logy")];
    const isCount = lines.every((line) => (line.interval ?? line.points)[1].every((value) => value >= 0));
    const alarms = this.alarms(lines);
    return new uPlot({
      width: figure.plot.clientWidth, height: 210, series, bands, legend: { show: false },
      scales: {
        x: { time: false, distr: logX ? 3 : 1, range: this.range ? (u, low, high) => this.xRange(low, high) : undefined },
        y: logY ? { distr: 3 } : { range: (u, low, high) => yRange(low, high, isCount) },
      },
      axes: [{ ...axis, size: 26 }, { ...axis, size: 52, values: (u, ticks) => ticks.map((tick) => (tick == null ? "" : number(tick))) }],
      cursor: { drag: { x: true, y: false, setScale: false }, sync: { key: "curves" }, points: { size: 7 },
        bind: { dblclick: () => () => { this.zoom(null); return null; } } },
      hooks: {
        drawClear: [(u) => drawAlarms(u, alarms, bad)],
        setSelect: [(u) => {
          if (u.select.width > 4) this.zoom([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]);
        }],
        setCursor: [(u) => this.tip(u, figure, alarms)],
      },
    }, uPlot.join(tables), figure.plot);
  }

  // The alarms of the runs that are drawn, those about the chart's own keys first.
  alarms(lines) {
    const x = this.option("x");
    return [...new Set(lines.map((line) => line.run))].flatMap((run) => {
      const { alarms, columns } = this.runs[run];
      return alarms.map(({ step, text }) => {
        const row = columns.step.findIndex((at) => at >= step);
        return { at: columns[x][row < 0 ? columns.step.length - 1 : row], text, step,
          own: lines.some((line) => line.run === run && text.includes(line.key)) };
      });
    });
  }

  tip(u, figure, alarms) {
    figure.tip?.remove();
    const { left, top, idx } = u.cursor;
    if (idx == null || left < 0 || !figure.plot.matches(":hover")) return;
    const at = u.data[0][idx];
    const unit = this.option("x") === "step" ? "step" : "hours";
    const rows = u.series.slice(1).map(({ line }, place) => {
      if (!line || line.faint) return null;
      const value = line.values ? line.values[line.points[0].indexOf(at)] : nearest(u.data[place + 1], idx);
      return value == null ? null : h("div", {}, h("span", {}, h("i", { style: { background: line.stroke } }), plain(line.label)), h("span", {}, number(value, 4)));
    });
    const near = alarms.filter((alarm) => Math.abs(u.valToPos(alarm.at, "x") - left) < 6);
    const box = h("div.tip", { "aria-hidden": "true" }, h("b", {}, `${unit} ${number(at, 4)}`), ...rows, ...near.map((alarm) => h("span.bad", {}, plain(alarm.text))));
    figure.element.append(box);
    const room = figure.element.clientWidth;
    const from = u.over.offsetLeft + figure.plot.offsetLeft + left + 14;
    box.style.left = `${Math.max(4, from + box.offsetWidth > room ? from - box.offsetWidth - 28 : from)}px`;
    box.style.top = `${figure.plot.offsetTop + Math.max(0, top - 20)}px`;
    figure.tip = box;
  }
}
