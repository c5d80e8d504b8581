// Boards, cards and chips, from the rows that Game.render returns.

function picture(rows) {
  return h("div.picture", { role: "img", "aria-label": inWords(rows) }, ...rows.map(([kind, label, tiles]) =>
    h("div.tiles", {}, label ? h("span.name", {}, shown(label)) : null, ...tiles.map((tile) => tileOf(kind, tile)))));
}

function tileOf(kind, [text, owner, hidden, marked]) {
  const classes = ["tile", kind, owner >= 0 ? `role${owner}` : "", hidden ? "face-down" : "", marked ? "marked" : ""];
  return h(`span.${classes.filter(Boolean).join(".")}`, {}, hidden ? "?" : shown(text));
}

function inWords(rows) {
  const describe = ([text, owner, hidden]) => (hidden ? "face down" : text || (owner >= 0 ? `player ${owner}` : "free"));
  return plain(rows.map(([, label, tiles]) => (label ? `${label}: ` : "") + tiles.map(describe).join(" ")).join("; "));
}
