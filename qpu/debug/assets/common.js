const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
function made(tag, text, name) {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
}
const words = new DataView(new ArrayBuffer(4));
function shown(bits, form) {
  words.setUint32(0, bits);
  if (form === "x") return "0x" + bits.toString(16).padStart(8, "0");
  if (form === "u") return String(bits);
  if (form === "f") { const v = words.getFloat32(0); return Object.is(v, -0) ? "-0" : String(Number(v.toPrecision(6))); }
  return String(words.getInt32(0));
}
function lanes(value, form) {
  return Array.isArray(value) ? value.map((v) => shown(v, form)) : [shown(value, form)];
}
function fill(panel, rows) {  // [name, texts of lanes, whether they are new]
  const width = Math.max(0, ...rows.map(([name]) => name.length));
  panel.replaceChildren(...rows.map(([name, cells, fresh]) => {
    const row = made("div", undefined, fresh ? "new" : ""), most = Math.max(...cells.map((c) => c.length));
    row.append(made("span", name.padEnd(width + 2), "name"), cells.map((c) => c.padStart(cells.length > 1 ? most : 0)).join(" "));
    return row;
  }));
}
