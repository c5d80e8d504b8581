// What the policy does in an information state, beside an equilibrium: now, and over the steps of the run.

function percent(share) {
  if (share === 0 || share > 0.99995) return `${Math.round(100 * share)}%`;
  return share < 0.001 && share > 0 ? "<0.1%" : `${(100 * share).toFixed(share < 0.0995 || share > 0.9005 ? 1 : 0)}%`;
}

// What the policy did in this information state in all matches of the step, beside an equilibrium.
function stateTable(data, match, turn) {
  const state = data.turns.state[turn];
  const { actions, equilibrium } = data.states[state];
  const { run, step } = data.matches;
  const counts = data.played[`${run[match]}/${step[match]}/${state}`];
  const total = counts.reduce((sum, count) => sum + count, 0);
  const taken = data.text(data.turns.action[turn]);
  const row = (name, share, best, classes) => h(`tr${name === taken ? ".taken" : ""}`, {},
    h("th", { scope: "row" }, shown(name)), h("td", {}, meter(share, classes)), h("td", {}, best == null ? "" : meter(best, ".equilibrium")));
  return h("table.state", {},
    h("caption", {}, `This information state in step ${step[match]}: ${total.toLocaleString("en")} ${total === 1 ? "answer" : "answers"}`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "action"), h("th", { scope: "col" }, "the policy"), h("th", { scope: "col", title: "one of the equilibria, found by CFR+ or minimax" }, "an equilibrium"))),
    h("tbody", {}, ...actions.map((name, at) => row(name, counts[at] / total, equilibrium[at], "")),
      counts.at(-1) ? row("illegal", counts.at(-1) / total, null, ".illegal") : null));
}

function meter(share, classes) {
  return h(`span.meter${classes}`, {}, h("i", { style: { width: `${Math.round(64 * share)}px` } }), percent(share));
}

let historyIsOpen = false; // stays as it is from one turn to the next

// How often the policy took each action in this state, step by step. Dashed: the equilibrium.
function stateHistory(data, match, turn) {
  const state = data.turns.state[turn];
  const points = playedAt(data, data.matches.run[match], state);
  const { actions, equilibrium } = data.states[state];
  if (points.length < 2) return null;
  const box = h("div.history", { role: "img", "aria-label": inWordsOverSteps(points, actions, equilibrium) });
  const draw = () => { if (!box.firstChild) drawHistory(box, points, actions, equilibrium, data.matches.step[match]); };
  const details = h("details", { open: historyIsOpen, on: { toggle: () => { historyIsOpen = details.open; if (details.open) draw(); } } },
    h("summary", {}, "over the steps of the run"), box);
  if (historyIsOpen) requestAnimationFrame(draw);
  return details;
}

// [[step, counts], ...] of a state in a run, by step.
function playedAt(data, run, state) {
  if (!data.history) {
    data.history = new Map();
    for (const [key, counts] of Object.entries(data.played)) {
      const [of, step, number] = key.split("/");
      const name = `${of}/${number}`;
      if (!data.history.has(name)) data.history.set(name, []);
      data.history.get(name).push([Number(step), counts]);
    }
    for (const points of data.history.values()) points.sort((a, b) => a[0] - b[0]);
  }
  return data.history.get(`${run}/${state}`) ?? [];
}

function shareOf(counts, at) { return counts[at] / counts.reduce((sum, count) => sum + count, 0); }

function inWordsOverSteps(points, actions, equilibrium) {
  const [first, last] = [points[0], points.at(-1)];
  return plain(actions.map((action, at) =>
    `${action}: ${percent(shareOf(first[1], at))} at step ${first[0]}, ${percent(shareOf(last[1], at))} at step ${last[0]}, ${percent(equilibrium[at])} in the equilibrium`).join("; "));
}

function drawHistory(box, points, actions, equilibrium, now) {
  const [ink, grid] = ["--dim", "--line"].map(resolved);
  const names = [...actions, ...(points.some(([, counts]) => counts.at(-1)) ? ["illegal"] : [])];
  const strokes = names.map((name, at) => resolved(name === "illegal" ? "--bad" : `--c${[0, 1, 2, 3, 5, 6, 7][at % 7]}`));
  const xs = points.map(([step]) => step);
  const lines = names.map((_, at) => points.map(([, counts]) => shareOf(counts, at)));
  const levels = actions.map((_, at) => xs.map(() => equilibrium[at]));
  const axis = { stroke: ink, grid: { stroke: grid, width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  new uPlot({
    width: box.clientWidth, height: 150, legend: { show: false }, cursor: { show: false },
    scales: { x: { time: false }, y: { range: [0, 1] } },
    axes: [{ ...axis, size: 24 }, { ...axis, size: 40, values: (u, ticks) => ticks.map((tick) => `${Math.round(100 * tick)}%`) }],
    series: [{}, ...strokes.map((stroke) => ({ stroke, width: 1.6, points: { show: xs.length < 30, size: 4 } })),
      ...actions.map((_, at) => ({ stroke: strokes[at], width: 1.2, dash: [4, 4], points: { show: false } }))],
    hooks: { drawClear: [(u) => {
      const left = Math.round(u.valToPos(now, "x", true));
      u.ctx.fillStyle = grid;
      u.ctx.fillRect(left - 1, u.bbox.top, 3, u.bbox.height);
    }] },
  }, [xs, ...lines, ...levels], box);
  box.after(h("div.legend", {}, ...names.map((name, at) => h("span", {}, h("i", { style: { background: strokes[at] } }), plain(name))), h("span", {}, "dashed: the equilibrium")));
}
