// What a player wrote in a turn: folded reasoning, the action marked, and each token shaded by its probability.

const MAX_TOKENS = 4000; // that become elements of their own; the rest of a longer answer is plain text
const FOLD = 240; // characters before the action that are shown unfolded
const SHADES = [0.05, 0.35, 1, 2, 3.5]; // nats: probabilities of 95%, 70%, 37%, 14%, 3%

function answer(data, turn) {
  const text = data.text(data.turns.text[turn]);
  const [from, to] = [data.turns.from[turn], data.turns.to[turn]];
  const bounds = from < 0 ? [text.length, text.length] : [from, to];
  const tokens = tokensOf(data, turn);
  const part = (start, end) => (tokens ? spans(tokens, text, start, end) : shown(text.slice(start, end)));
  const [before, after] = [part(0, bounds[0]), part(bounds[1], text.length)];
  const action = from < 0 ? null : h("mark", { title: "the action" }, part(...bounds));
  const end = tokens ? tokens.filter((token) => token.special).map(tokenSpan) : [];
  if (bounds[0] <= FOLD) return h("div.answer", { tabindex: "0" }, h("pre", {}, before, action, after, ...end));
  const summary = from < 0 ? "all of it" : "reasoning";
  const size = `${bounds[0].toLocaleString("en")} characters`;
  return h("div.answer", { tabindex: "0" },
    h("details", {}, h("summary", {}, `${summary}, ${size}`), h("pre", {}, before)), h("pre", {}, action, after, ...end));
}

// [{piece, start, logprob, special}], or null where the texts of the tokens are not known.
function tokensOf(data, turn) {
  const [first, end] = [data.firstToken[turn], data.firstToken[turn + 1]];
  if (first === end) return null;
  let start = 0;
  return Array.from({ length: end - first }, (_, at) => {
    const number = data.tokens.piece[first + at];
    const special = data.specials.has(number);
    const token = { piece: data.text(number), start, special, logprob: -data.tokens.logprob[first + at] / 1000 };
    if (!special) start += token.piece.length;
    return token;
  });
}

// The tokens of a part of the text; one that crosses its bounds is cut there.
function spans(tokens, text, start, end) {
  const parts = document.createDocumentFragment();
  const inside = tokens.filter((token) => !token.special && token.start < end && token.start + token.piece.length > start);
  for (const token of inside.slice(0, MAX_TOKENS)) {
    const piece = token.piece.slice(Math.max(0, start - token.start), end - token.start);
    parts.append(tokenSpan({ ...token, piece }));
  }
  if (inside.length > MAX_TOKENS) parts.append(shown(text.slice(inside[MAX_TOKENS].start, end)));
  return parts;
}

function tokenSpan({ piece, logprob, special }) {
  const shade = SHADES.filter((bound) => -logprob > bound).length;
  const title = `probability ${number(Math.exp(logprob), 3)}, logprob ${number(logprob)}`;
  return h(`span.token.t${shade}${special ? ".special" : ""}`, { title }, shown(piece));
}
