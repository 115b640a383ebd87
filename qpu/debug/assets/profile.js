$("title").textContent = document.title;
$("head").textContent = D.head;
const most = Math.max(1, ...D.executed), perLine = D.source.map(() => 0), codes = [], sources = [];
D.line.forEach((line, n) => { if (line >= 0) perLine[line] += D.executed[n]; });
function count(value, share) {
  const e = made("span", value ? value.toLocaleString("en") : "", "count");
  e.style.setProperty("--share", share);
  return e;
}
const indent = Math.min(...D.source.filter(([, text]) => text.trim()).map(([, text]) => text.search(/\S/)));
D.source.forEach(([line, text], n) => {
  const row = made("div");
  row.append(count(perLine[n], perLine[n] / Math.max(1, ...perLine)), made("span", String(line).padStart(4) + "  ", "n"), text.slice(indent));
  row.onmouseenter = () => light(n, -1, () => codes.filter((c, k) => D.line[k] === n));
  sources.push(row);
});
$("source").append(...sources);
D.code.forEach((text, n) => {
  const row = made("div");
  row.append(count(D.executed[n], D.executed[n] / most), count(D.waits[n], 0), made("span",
    String(n).padStart(4) + "  ", "n"), text);
  row.onmouseenter = () => {
    light(D.line[n], n, () => [row]);
    registers(`instruction ${n} has changed, when it was executed first`, D.registers[n]);
  };
  codes.push(row);
});
$("code").append(...codes);
function light(line, index, rows) {
  document.querySelectorAll(".lit").forEach((e) => e.classList.remove("lit"));
  if (line >= 0) sources[line].classList.add("lit");
  rows().forEach((r) => r.classList.add("lit"));
}
function registers(what, found) {
  $("what").textContent = what + (found && found.length ? "" : ": nothing that is shown here");
  fill($("registers"), (found || []).flatMap(([name, value]) => [[name, lanes(value, "i"), false], ["  as float", lanes(value, "f"), false],
    ["  as hex", lanes(value, "x"), false]]));
}
const lanesOf = [...new Set(D.spans.map((s) => s[0] * 8 + s[1]))].sort((a, b) => a - b), end = Math.max(1, ...D.spans.map((s) => s[3]));
function element(name, values, text) {
  const e = document.createElementNS($("svg").namespaceURI, name);
  for (const [k, v] of Object.entries(values)) e.setAttribute(k, v);
  if (text !== undefined) e.textContent = text;
  return e;
}
function timeline() {
  const width = ($("times").clientWidth - 90) * 2 ** Number($("zoom").value), x = (clock) => 64 + width * clock / end;
  const svg = $("svg"), parts = [];
  svg.setAttribute("width", width + 80); svg.setAttribute("height", 17 * lanesOf.length + 28);
  lanesOf.forEach((lane, n) => parts.push(element("text", { x: 6, y: 17 * n + 14 }, `QPU ${lane >> 3}.${lane & 7}`)));
  D.spans.forEach((s, n) => {
    const bar = element("rect", { x: x(s[2]).toFixed(1), y: 17 * lanesOf.indexOf(s[0] * 8 + s[1]) + 4,
      width: Math.max(0.5, x(s[3]) - x(s[2])).toFixed(1), height: 13 });
    const text = `QPU ${s[0]}.${s[1]}, clocks ${s[2]} to ${s[3]}, instructions ${s[4]} to ${s[5]}`;
    bar.append(element("title", {}, text));
    bar.onmouseenter = () => {
      light(D.line[s[4]], s[4], () => [bar, ...codes.slice(Math.min(s[4], s[5]), Math.max(s[4], s[5]) + 1)]);
      if (codes[s[4]]) codes[s[4]].scrollIntoView({ block: "nearest" });
      registers(text + ": registers that were changed, at the end", D.changes[n]);
    };
    parts.push(bar);
  });
  const step = 10 ** Math.floor(Math.log10(Math.max(1, 120 * end / width))) , jump = [1, 2, 5, 10].map((k) => k * step).find((k) =>
    x(k) - x(0) >= 60) || 10 * step;
  for (let clock = 0; clock <= end; clock += jump) {
    parts.push(element("text", { x: x(clock), y: 17 * lanesOf.length + 20, "text-anchor": "middle" }, clock.toLocaleString("en")));
  }
  svg.replaceChildren(...parts);
}
$("zoom").oninput = timeline;
addEventListener("resize", timeline);
timeline();
document.body.dataset.spans = D.spans.length;
