// The data that the page holds: JSON, compressed, in base64.

async function unpack(id) {
  const element = document.getElementById(id);
  const raw = atob(element.textContent);
  element.remove(); // its text is no longer needed
  const bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

// Where the entries of each owner begin, given how many each has; one more at the end.
function starts(counts) {
  const first = new Uint32Array(counts.length + 1);
  counts.forEach((count, at) => { first[at + 1] = first[at] + count; });
  return first;
}

// The matches as columns (see match_columns.py), with the places of their turns and tokens.
class Matches {
  constructor(data, runs) {
    Object.assign(this, data);
    this.runs = runs;
    this.count = this.matches.id.length;
    this.firstTurn = starts(this.matches.turns);
    this.firstToken = starts(this.turns.tokens);
    this.specials = new Set(this.special);
    const { run, step, id } = this.matches;
    this.order = Array.from({ length: this.count }, (_, at) => at).sort(
      (a, b) => run[a] - run[b] || step[a] - step[b] || id[a] - id[b]);
    this.illegal = new Uint8Array(this.count);
    for (let match = 0; match < this.count; match++) {
      for (const turn of this.turnsOf(match)) if (!this.turns.legal[turn]) this.illegal[match] = 1;
    }
  }

  text(number) { return number < 0 ? "" : this.texts[number]; }

  game(match) { return this.text(this.matches.game[match]); }

  players(match) { return [this.text(this.matches.player0[match]), this.text(this.matches.player1[match])]; }

  turnsOf(match) {
    const first = this.firstTurn[match];
    return Array.from({ length: this.matches.turns[match] }, (_, at) => first + at);
  }

  // Who sits opposite the policy: a player's label, or "itself".
  opponent(match) {
    const others = this.players(match).filter((player) => player !== "policy");
    return others.length ? others.join(" and ") : "itself";
  }

  outcome(match) {
    const result = this.matches.return0[match];
    return result > 0 ? "player 0 wins" : result < 0 ? "player 1 wins" : "draw";
  }

  // The name under which a match is found again in the address of the page.
  name(match) { return `${this.matches.run[match]}-${this.matches.step[match]}-${this.matches.id[match]}`; }
}
