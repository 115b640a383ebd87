const steps = D.threads.map(() => []);  // thread -> numbers of its steps
D.steps.forEach(([t], n) => steps[t].push(n));
const history = D.threads.map(() => new Map());  // thread -> name -> [[step, value]]
for (const [step, t, name, value] of D.changes) {
  if (!history[t].has(name)) history[t].set(name, []);
  history[t].get(name).push([step, value]);
}
let thread = 0, at = 0;
$("title").textContent = `${D.isa} (${D.board})` + (D.cut ? ", first steps" : "");
D.threads.forEach((name, n) => { const o = made("option", name); o.value = n; $("thread").append(o); });
D.source.forEach(([line, text]) => {
  const row = made("div");
  row.append(made("span", String(line).padStart(5) + "  ", "n"), text);
  $("source").append(row);
});
D.code.forEach((text, n) => {
  if (D.labels[n]) $("code").append(made("div", D.labels[n] + ":", "soft"));
  const row = made("div");
  row.append(made("span", String(n).padStart(5) + "  ", "n"), text);
  row.dataset.n = n;
  row.addEventListener("click", () => {
    const mine = steps[thread];
    for (let k = 1; k <= mine.length; k++) {
      const other = (at + k) % mine.length;
      if (D.steps[mine[other]][1] === n) return go(other);
    }
  });
  $("code").append(row);
});
const codes = [...$("code").querySelectorAll("[data-n]")], sources = [...$("source").children];
function centre(box, row) {
  if (!row) return;
  const top = row.offsetTop - box.offsetTop;
  if (top < box.scrollTop + 24 || top > box.scrollTop + box.clientHeight - 40) box.scrollTop = top - box.clientHeight / 2;
}
function valueAt(list, step) {
  let low = 0, high = list.length;
  while (low < high) { const mid = (low + high) >> 1; if (list[mid][0] <= step) low = mid + 1; else high = mid; }
  return low ? list[low - 1] : null;
}
function order(a, b) { return a.localeCompare(b, "en", { numeric: true }); }
function draw() {
  const mine = steps[thread], step = mine[at];
  $("slider").max = mine.length - 1;
  $("slider").value = at;
  $("where").textContent = mine.length ? `step ${at + 1} of ${mine.length}` : "no steps";
  document.querySelectorAll(".here").forEach((e) => e.classList.remove("here"));
  if (!mine.length) return;
  const index = D.steps[step][1];
  let line = -1;  // of the last instruction that has one
  for (let k = at; k >= 0 && line < 0; k--) line = D.line[D.steps[mine[k]][1]];
  if (codes[index]) { codes[index].classList.add("here"); centre($("codebox"), codes[index]); }
  if (line >= 0) { sources[line].classList.add("here"); centre($("sourcebox"), sources[line]); }
  const variables = Object.entries(D.arguments).map(([n, v]) => [n, [String(v) + "  (argument)"], false]), registers = [];
  for (const name of [...history[thread].keys()].sort(order)) {
    const found = valueAt(history[thread].get(name), step);
    if (!found) continue;
    const fresh = found[0] === step, mark = name[1] === ":";
    const row = [mark ? name.slice(2) : name, lanes(found[1], mark ? name[0] : $("form").value), fresh];
    (mark ? variables : registers).push(row);
  }
  fill($("variables"), variables);
  fill($("registers"), registers);
  document.body.dataset.step = at;
}
function go(n) { at = Math.max(0, Math.min(steps[thread].length - 1, n)); draw(); }
$("slider").addEventListener("input", () => go(Number($("slider").value)));
$("first").onclick = () => go(0); $("back").onclick = () => go(at - 1);
$("next").onclick = () => go(at + 1); $("last").onclick = () => go(steps[thread].length - 1);
$("thread").onchange = () => { thread = Number($("thread").value); go(at); };
$("form").onchange = draw;
document.addEventListener("keydown", (e) => {
  if (e.target.tagName === "INPUT" || e.target.tagName === "SELECT") return;
  if (e.key === "ArrowRight") go(at + 1);
  if (e.key === "ArrowLeft") go(at - 1);
});
const wanted = /^#(\d+)$/.exec(location.hash);
go(wanted ? Number(wanted[1]) : 0);
