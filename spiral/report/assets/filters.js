// The form above the list of matches, and which matches it lets through.

const ANY = "";

function select(name, label, options) {
  const items = [h("option", { value: ANY }, "any"), ...options.map(([value, text]) => h("option", { value }, plain(text)))];
  return h("label", {}, label, h("select", { name }, ...items));
}

// The values of a column with how often each occurs, most frequent first.
function tally(data, valueOf) {
  const counts = new Map();
  for (let match = 0; match < data.count; match++) {
    const value = valueOf(match);
    counts.set(value, (counts.get(value) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([value, count]) => [value, `${value} (${count.toLocaleString("en")})`]);
}

function buildFilters(form, data) {
  form.append(
    h("label.wide", {}, "search in what was seen and written", h("input", { name: "words", type: "search", placeholder: "text" })),
    data.runs.length > 1 ? select("run", "run", data.runs.map((run, at) => [at, run.label])) : "",
    select("game", "game", tally(data, (match) => data.game(match))),
    select("result", "result", tally(data, (match) => data.outcome(match))),
    select("opponent", "policy against", tally(data, (match) => data.opponent(match))),
    select("end", "end", tally(data, (match) => data.text(data.matches.end[match]))),
    select("illegal", "illegal actions", [["some", "some"], ["none", "none"]]),
    h("label", {}, "steps", h("span.pair", {}, h("input", { name: "from", type: "number", placeholder: "from", "aria-label": "from step" }), h("input", { name: "to", type: "number", placeholder: "to", "aria-label": "to step" }))),
    select("sort", "order", [["newest", "newest first"], ["long", "longest first"], ["advantage", "largest advantage"], ["unlikely", "least likely answer"]]));
  form.elements.sort.options[0].textContent = "oldest first";
}

// The matches that pass, in the chosen order.
function filtered(form, data) {
  const value = (name) => form.elements[name]?.value ?? ANY;
  const { run, step, end } = data.matches;
  const tests = [];
  const test = (name, passes) => { if (value(name) !== ANY) tests.push(passes); };
  test("run", (match) => run[match] === Number(value("run")));
  const game = data.texts.indexOf(value("game"));
  test("game", (match) => data.matches.game[match] === game);
  const result = value("result");
  test("result", (match) => data.outcome(match) === result);
  const opponent = value("opponent");
  test("opponent", (match) => data.opponent(match) === opponent);
  const reason = data.texts.indexOf(value("end"));
  test("end", (match) => end[match] === reason);
  const illegal = value("illegal") === "some" ? 1 : 0;
  test("illegal", (match) => data.illegal[match] === illegal);
  const [from, to] = [Number(value("from")), Number(value("to"))];
  test("from", (match) => step[match] >= from);
  test("to", (match) => step[match] <= to);
  const words = value("words").toLowerCase();
  if (words) tests.push(containing(data, words));
  return sorted(data.order.filter((match) => tests.every((passes) => passes(match))), data, value("sort"));
}

// A test for matches in which a text holds `words`. Each text is looked at once, however often it occurs.
function containing(data, words) {
  data.lowered ??= data.texts.map((text) => text.toLowerCase());
  const holds = Uint8Array.from(data.lowered, (text) => (text.includes(words) ? 1 : 0));
  const columns = ["text", "view0", "view1"].map((name) => data.turns[name]);
  return (match) => {
    for (let turn = data.firstTurn[match]; turn < data.firstTurn[match + 1]; turn++) {
      if (columns.some((column) => holds[column[turn]])) return true;
    }
    return false;
  };
}

function sorted(found, data, order) {
  const extreme = (column, best, start) => {
    const values = new Map(found.map((match) => [match, data.turnsOf(match).reduce((so, turn) => best(so, data.turns[column][turn] ?? start), start)]));
    return (a, b) => values.get(a) - values.get(b);
  };
  if (order === "newest") return found.reverse();
  if (order === "long") return found.sort((a, b) => data.matches.turns[b] - data.matches.turns[a]);
  if (order === "advantage") return found.sort(extreme("advantage", (so, value) => Math.min(so, -Math.abs(value)), 0));
  if (order === "unlikely") return found.sort(extreme("logprob", Math.min, 0));
  return found;
}
