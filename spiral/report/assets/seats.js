// Both seats at one moment of a match: what each sees, and what the one that is to move wrote.

// `turn` is a turn of the match, or null for its end.
function seats(data, match, turn) {
  const source = turn == null ? data.matches : data.turns;
  const at = turn ?? match;
  return h("div.seats.shaded", {}, ...[0, 1].map((role) => {
    const moves = turn != null && data.turns.role[turn] === role;
    const drawing = source[`picture${role}`][at];
    const view = data.text(source[`view${role}`][at]);
    return h(`section.seat.r${role}.${moves ? "moves" : "idle"}`, { "aria-label": `player ${role}` },
      h("h4", {}, h("span", {}, `player ${role}`), h("small", {}, shown(data.players(match)[role]), ` ${signed(returnOf(data, match, role))}`)),
      drawing >= 0 ? picture(data.pictures[drawing]) : null,
      h("h5", {}, moves ? "is to move and sees" : turn == null ? "saw at the end" : "sees"),
      view ? h("pre.view", { tabindex: "0" }, shown(view)) : h("p.dim", {}, "nothing yet"),
      ...(moves ? written(data, match, turn) : []));
  }));
}

function returnOf(data, match, role) {
  const result = data.matches.return0[match];
  return role === 0 ? result : -result || 0;
}

function written(data, match, turn) {
  const { legal, refusal } = data.turns;
  return [
    h("h5", {}, "writes"),
    answer(data, turn),
    legal[turn] ? null : h("p.bad", {}, "Illegal: ", shown(data.text(refusal[turn]))),
    facts(data, turn),
    ...(data.turns.state[turn] >= 0 ? [stateTable(data, match, turn), stateHistory(data, match, turn)] : []),
  ];
}

function facts(data, turn) {
  const { tokens, logprob, oldest, newest, advantage, ratio, finish } = data.turns;
  if (oldest[turn] < 0) return h("ul.facts", {}, h("li", {}, "a scripted player"));
  const fact = (name, value) => h("li", {}, `${name} `, h("b", {}, value));
  const versions = oldest[turn] === newest[turn] ? `${oldest[turn]}` : `${oldest[turn]} to ${newest[turn]}`;
  return h("ul.facts", {},
    fact("policy version", versions),
    advantage[turn] == null ? h("li", {}, "not trained on") : fact("advantage", signed(advantage[turn])),
    ratio[turn] == null ? null : fact("ratio π/μ", number(ratio[turn])),
    fact("probability of this answer", percent(Math.exp(logprob[turn]))),
    tokens[turn] ? fact("tokens", tokens[turn].toLocaleString("en")) : null,
    data.text(finish[turn]) === "length" ? h("li.bad", {}, "cut off at rollout.max_tokens") : null);
}
