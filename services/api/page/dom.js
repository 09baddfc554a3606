// Making elements, and bringing what is on the page to what it should be without losing focus or open details.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "rect", "line", "text", "g", "title", "circle"]);

/** Make an element: attributes with false, null or undefined are left out; strings become text, never markup. */
export function h(tag, attributes = {}, ...children) {
  const element = DRAWN.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make the children of `target` like these, changing only what differs. */
export function show(target, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  morphChildren(target, wanted.map((child) => (child instanceof Node ? child : document.createTextNode(String(child)))));
}

function morphChildren(target, wanted) {
  wanted.forEach((child, index) => {
    const old = target.childNodes[index];
    if (!old) target.append(child);
    else if (alike(old, child)) morph(old, child);
    else target.replaceChild(child, old);
  });
  while (target.childNodes.length > wanted.length) target.lastChild.remove();
}

function alike(old, wanted) {
  return old.nodeType === wanted.nodeType && old.nodeName === wanted.nodeName && key(old) === key(wanted);
}

const key = (node) => node.getAttribute?.("data-key") ?? null;

function morph(old, wanted) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (wanted.onclick || old.onclick) old.onclick = wanted.onclick;
  morphChildren(old, [...wanted.childNodes]);
}

/** Make a table. `columns` are [name, cell(row), class]; on a narrow screen rows become blocks. */
export function table(caption, columns, rows, keyOf) {
  const head = columns.map(([name, , kind]) => h("th", { scope: "col", class: kind === "num" ? "num" : null }, name));
  const body = rows.map((row) =>
    h("tr", { "data-key": keyOf ? keyOf(row) : null, class: row.rowClass || null },
      columns.map(([name, cell, kind]) => h("td", { class: kind || null, "data-name": name }, cell(row)))));
  return h("div", { class: "scroll", tabindex: rows.length ? "0" : null, role: "region", "aria-label": caption },
    h("table", { class: "stack" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

/** A piece of a line as a chart draws it, for its legend. */
export function sample(colour, dash) {
  return h("svg", { width: 26, height: 10, class: `c${colour}`, "aria-hidden": "true" },
    h("line", { x1: 0, y1: 5, x2: 26, y2: 5, stroke: "currentColor", "stroke-width": 3, "stroke-dasharray": dash.join(" ") || null }));
}

/** Say why there is nothing to see, and what to do. */
export function empty(why, todo) {
  return h("div", { class: "empty" }, h("b", {}, why), h("span", { class: "quiet" }, todo));
}

/** What every panel says in a namespace where nothing has been seen. */
export const nothingYet = () =>
  empty("Nothing has been seen in this namespace yet.", "Produce predictions to its topic `predictions`, or POST /v1/predictions; weir demo shows a whole story.");

/** A state: an icon, a word and a colour, so that none has to be told by colour alone. */
export function told(kind, word) {
  const icon = { good: "✓", warn: "▲", bad: "✕", info: "●", none: "○" }[kind] ?? "○";
  return h("span", { class: `state ${kind === "none" ? "quiet" : kind}` }, `${icon} ${word}`);
}

export const $ = (id) => document.getElementById(id);
