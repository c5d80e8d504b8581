// The list of matches, and the one that is open.

const PAGE = 100; // matches that the list gains at a time

class Viewer {
  constructor(data) {
    this.data = data;
    this.form = document.getElementById("filters");
    this.list = document.getElementById("list");
    this.box = document.getElementById("match");
    this.found = [];
    this.match = null;
    this.turn = 0; // place among the turns of the match; their number is the end
    buildFilters(this.form, data);
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("hashchange", () => this.follow());
    this.filter();
    if (!this.follow() && this.found.length) this.open(this.found[0], 0, false);
  }

  filter() {
    const start = performance.now();
    this.found = filtered(this.form, this.data);
    this.list.replaceChildren();
    this.more();
    this.list.scrollTop = 0;
    const [found, all] = [this.found.length, this.data.count].map((count) => count.toLocaleString("en"));
    document.getElementById("found").textContent = `${found} of ${all} matches`;
    this.lastFilterMs = performance.now() - start;
    this.list.dataset.ms = this.lastFilterMs.toFixed(1);
  }

  more() {
    this.list.querySelector(".more")?.parentElement.remove();
    const shownNow = this.list.children.length;
    this.list.append(...this.found.slice(shownNow, shownNow + PAGE).map((match) => this.item(match)));
    if (this.found.length > this.list.children.length) {
      this.list.append(h("li", {}, h("button.more", { type: "button", on: { click: () => this.more() } }, `show ${PAGE} more`)));
    }
  }

  item(match) {
    const { data } = this;
    const { step, id, turns, end, run } = data.matches;
    const reason = data.text(end[match]);
    const label = [data.runs.length > 1 ? data.runs[run[match]].label : "", `step ${step[match]}`, `match ${id[match]}`, `${turns[match]} turns`,
      data.opponent(match) === "itself" ? "" : `against ${data.opponent(match)}`].filter(Boolean).join(" · ");
    const tags = [reason === "finished" ? null : h("span.tag.bad", {}, reason), data.illegal[match] && reason !== "forfeit" ? h("span.tag.bad", {}, "illegal") : null];
    return h("li", {}, h("button", { type: "button", "data-match": match, "aria-current": match === this.match ? "true" : null, on: { click: () => this.open(match, 0) } },
      h("span", {}, plain(shortName(data.game(match)))), h("span", {}, ...tags, " ", h(`span${resultClass(data, match)}`, {}, data.outcome(match))),
      h("small", {}, plain(label))));
  }

  open(match, turn, scroll = true) {
    this.match = match;
    this.turn = Math.max(0, Math.min(Math.trunc(turn), this.data.matches.turns[match]));
    for (const button of this.list.querySelectorAll("[data-match]")) {
      if (Number(button.dataset.match) === match) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
    this.reveal(this.list.querySelector("[aria-current]"));
    this.render();
    if (scroll && innerWidth <= 900) this.box.scrollIntoView();
  }

  // Scroll the list, and not the page, to one of its items.
  reveal(item) {
    if (!item) return;
    const [at, room] = [item.getBoundingClientRect(), this.list.getBoundingClientRect()];
    if (at.top < room.top) this.list.scrollTop += at.top - room.top;
    if (at.bottom > room.bottom) this.list.scrollTop += at.bottom - room.bottom;
  }

  render() {
    const { data, match } = this;
    const { step, id, seed, end, forfeit, error, replayed } = data.matches;
    const turns = data.turnsOf(match);
    const run = data.runs.length > 1 ? `${data.runs[data.matches.run[match]].label} · ` : "";
    const forfeiter = forfeit[match] >= 0 ? ` by player ${forfeit[match]}` : "";
    this.box.replaceChildren(
      h("h3", {}, plain(data.game(match)), " ", h(`span${resultClass(data, match)}`, {}, data.outcome(match))),
      h("div.hint", {}, plain(`${run}step ${step[match]} · match ${id[match]} · seed ${seed[match]} · ${data.text(end[match])}${forfeiter}`),
        replayed[match] ? null : " · not played again: only recorded views", error[match] < 0 ? null : h("div.bad", {}, shown(data.text(error[match])))),
      this.bar(turns.length),
      h("ol.steps", { "aria-label": "Turns" }, ...turns.map((turn, at) => this.stepButton(turn, at)), this.stepButton(null, turns.length)),
      seats(data, match, turns[this.turn] ?? null));
    this.box.querySelector(".seats").classList.toggle("shaded", this.shaded ?? true);
    for (const view of this.box.querySelectorAll(".view")) view.scrollTop = view.scrollHeight; // the newest is at the end
    history.replaceState(null, "", `#match=${data.name(match)}&turn=${this.turn}`);
  }

  bar(numTurns) {
    const button = (text, label, disabled, to) => h("button", { type: "button", "aria-label": label, disabled, on: { click: () => this.go(to) } }, text);
    const shades = h("input", { type: "checkbox", checked: this.shaded ?? true, on: { change: (event) => {
      this.shaded = event.target.checked;
      this.box.querySelector(".seats").classList.toggle("shaded", this.shaded);
    } } });
    return h("div.moves-bar", {},
      button("◀", "previous turn", this.turn === 0, this.turn - 1), button("▶", "next turn", this.turn === numTurns, this.turn + 1),
      h("span", { role: "status" }, this.turn === numTurns ? "the end" : `turn ${this.turn + 1} of ${numTurns}`),
      h("label", {}, shades, " shade improbable tokens"));
  }

  stepButton(turn, at) {
    const { data } = this;
    const current = at === this.turn ? "step" : null;
    const react = { click: () => this.go(at) };
    if (turn == null) return h("li", {}, h("button", { type: "button", "aria-current": current, on: react }, "end"));
    const role = data.turns.role[turn];
    const legal = data.turns.legal[turn];
    const label = plain((data.text(data.turns.action[turn]) || "no action").slice(0, 60));
    return h("li", {}, h(`button.role${role}${legal ? "" : ".illegal"}`, { type: "button", "aria-current": current, title: `player ${role}${legal ? "" : ", illegal"}`, on: react },
      h("small", {}, String(at + 1)), label));
  }

  go(turn) {
    if (turn < 0 || turn > this.data.matches.turns[this.match]) return;
    const focused = document.activeElement?.getAttribute("aria-label");
    this.turn = turn;
    this.render();
    if (focused && this.box.contains(document.activeElement) === false) this.box.querySelector(`.moves-bar [aria-label="${focused}"]`)?.focus();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const place = this.found.indexOf(this.match);
    const actions = {
      ArrowLeft: () => this.go(this.turn - 1), ArrowRight: () => this.go(this.turn + 1),
      j: () => place + 1 < this.found.length && this.open(this.found[place + 1], 0, false),
      k: () => place > 0 && this.open(this.found[place - 1], 0, false),
      "/": () => this.form.elements.words.focus(),
    };
    if (this.match == null || !actions[event.key]) return;
    if (event.key.startsWith("Arrow") && event.target.closest(".scroll")) return;
    event.preventDefault();
    actions[event.key]();
  }

  // Open the match that the page's address names. Returns whether there is one.
  follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const match = this.data.order.find((one) => this.data.name(one) === parts.get("match"));
    if (match == null) return false;
    if (match !== this.match || Number(parts.get("turn")) !== this.turn) this.open(match, Number(parts.get("turn")) || 0);
    return true;
  }
}

function resultClass(data, match) {
  const result = data.matches.return0[match];
  return result > 0 ? ".role0" : result < 0 ? ".role1" : ".dim";
}

function shortName(game) { return game.split("/").at(-1).split(":").at(-1).replace(/-v0$/, ""); }
