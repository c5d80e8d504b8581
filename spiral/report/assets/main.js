// Curves first; the matches, which may be many, once the page has been painted.

function whenRead() {
  return document.readyState === "loading" ? new Promise((done) => addEventListener("DOMContentLoaded", done, { once: true })) : Promise.resolve();
}

function afterPaint() { return new Promise((done) => requestAnimationFrame(() => setTimeout(done))); }

async function start() {
  const data = await unpack("curve-data");
  new Charts(data, document.getElementById("curve-tools"));
  await whenRead();
  await afterPaint();
  const matches = new Matches(await unpack("match-data"), data.runs);
  if (matches.count) new Viewer(matches);
  else document.getElementById("viewer").remove();
  document.body.dataset.ready = "yes";
}

start().catch((error) => {
  document.getElementById("match").replaceChildren(h("p.bad", {}, `This browser cannot show the page's data: ${error.message}`));
  throw error;
});
