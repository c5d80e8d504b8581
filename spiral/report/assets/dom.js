// Elements are built one by one, and text only ever becomes text: nothing here parses HTML.

// h("button.tag", {type: "button", on: {click}}, "text", element, ...)
function h(selector, properties = {}, ...children) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") for (const [event, react] of Object.entries(value)) element.addEventListener(event, react);
    else if (name === "style") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== ""));
  return element;
}

// Characters that are invisible, or that change the direction of the text around them.
// The same as in spiral/monitor/transcript.py.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

function code(character) { return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`; }

// Text of a model or a game, with such characters as their codes.
function shown(text) {
  const parts = document.createDocumentFragment();
  let last = 0;
  for (const found of text.matchAll(INVISIBLE)) {
    parts.append(text.slice(last, found.index), h("span.code", { title: "an invisible character" }, code(found[0])));
    last = found.index + found[0].length;
  }
  parts.append(text.slice(last));
  return parts;
}

// The same where there is no room for elements: labels, options, titles.
function plain(text) { return text.replace(INVISIBLE, (character) => `<${code(character)}>`); }

function number(value, digits = 3) {
  if (value == null) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2).replace("-", "−");
  const text = size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

function signed(value) { return value == null ? "-" : (value > 0 ? "+" : "") + number(value); }

// The colour that a custom property has now: canvases do not know light-dark().
function resolved(name) {
  const probe = h("span", { style: { color: `var(${name})` }, hidden: true });
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}
