// Tables: sorted, filtered, with the columns a reader wants; of thousands of rows a slice is drawn, and the next one as it comes into sight.
const SLICE = 60;

function sortKey(column, cell, nothing) {
  if (column.number) return cell[3] ?? null;
  return cell[0] === nothing || cell[0] === "" ? null : cell[0];
}

class ResultTable {
  constructor(spec, place, data) {
    Object.assign(this, { spec, place, data, columns: spec.columns, rows: spec.rows });
    this.order = this.rows.map((_, number) => number);
    this.build();
    this.restore();
  }

  // ---- choices

  restore() {
    const chosen = state.get(this.spec.id + ".c");
    const names = chosen === null ? null : new Set(chosen.split(","));
    this.visible = this.columns.map((column, place) => place === 0 || (names ? names.has(column.name) : column.shown));
    const sorted = state.get(this.spec.id + ".s") || "";
    this.falling = sorted.startsWith("-");
    this.sorted = this.columns.findIndex((column) => column.name === sorted.replace(/^-/, ""));
    this.box.value = state.get(this.spec.id + ".f") || "";
    this.boxes.forEach((box, place) => { box.checked = this.visible[place]; });
    this.arrange();
    this.draw();
  }

  sortBy(place) {
    this.falling = this.sorted === place ? !this.falling : false;
    this.sorted = place;
    state.set(this.spec.id + ".s", (this.falling ? "-" : "") + this.columns[place].name);
    this.arrange();
    this.draw();
  }

  choose(places) {
    this.visible = this.columns.map((_, place) => place === 0 || places.has(place));
    this.boxes.forEach((box, place) => { box.checked = this.visible[place]; });
    const usual = this.columns.every((column, place) => place === 0 || column.shown === this.visible[place]);
    state.set(this.spec.id + ".c", usual ? null : this.columns.filter((_, place) => this.visible[place]).map((column) => column.name).join(","));
    this.draw();
  }

  // ---- which rows, in which order

  arrange() {
    const wanted = this.tests(this.box.value);
    this.order = [];
    this.rows.forEach((row, number) => { if (wanted.every((test) => test(row))) this.order.push(number); });
    if (this.sorted >= 0) {
      const column = this.columns[this.sorted];
      const keys = this.rows.map((row) => sortKey(column, row.cells[this.sorted], this.data.null));
      const collator = new Intl.Collator("en", { numeric: true });
      const sign = this.falling ? -1 : 1;
      this.order.sort((a, b) => {
        if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null); // what was not measured stays last
        return sign * (column.number ? keys[a] - keys[b] : collator.compare(keys[a], keys[b])) || a - b;
      });
    }
  }

  // Words that a row must contain; `column:word` looks in one column, `column<3` compares in the heading's unit.
  tests(text) {
    return [...text.matchAll(/(?:([^\s:<>"]+)(:|<=|>=|<|>))?("[^"]*"|\S+)/g)].map(([whole, name, operator, quoted]) => {
      const places = name === undefined ? [] : this.named(name.toLowerCase());
      const word = quoted.replace(/^"|"$/g, "").toLowerCase();
      if (!places.length) {
        const sought = name === undefined ? word : whole.toLowerCase();
        return (row) => this.words(row).includes(sought);
      }
      if (operator === ":") return (row) => places.some((place) => row.cells[place][0].toLowerCase().includes(word));
      const limit = Number(word);
      const holds = { "<": (a) => a < limit, ">": (a) => a > limit, "<=": (a) => a <= limit, ">=": (a) => a >= limit }[operator];
      const numbers = places.filter((place) => this.columns[place].number);
      return (row) => numbers.some((place) => row.cells[place][3] != null && holds(row.cells[place][3] * this.columns[place].scale));
    });
  }

  named(word) {
    const exact = [], begins = [];
    this.columns.forEach((column, place) => {
      const names = [column.name, column.title, column.title.replace(/\s+/g, "_")].map((name) => name.toLowerCase());
      if (names.includes(word)) exact.push(place);
      else if (names.some((name) => name.startsWith(word))) begins.push(place);
    });
    return exact.length ? exact : begins;
  }

  words(row) {
    row.words ??= row.cells.filter((_, place) => !this.columns[place].group).map((cell) => cell[0]).join("\n").toLowerCase();
    return row.words;
  }

  // ---- drawing

  build() {
    const id = this.spec.id;
    this.box = element("input", {
      type: "search", placeholder: "filter: words, index:hnsw, recall>0.95", "aria-label": `filter the ${this.spec.title} table`, spellcheck: "false",
      oninput: () => {
        state.set(id + ".f", this.box.value);
        this.arrange();
        this.draw();
      },
    });
    this.count = element("span", { class: "count", role: "status" });
    this.boxes = this.columns.map((column, place) => element("input", {
      type: "checkbox", disabled: place === 0,
      onchange: () => this.choose(new Set([...this.boxes.keys()].filter((one) => this.boxes[one].checked))),
    }));
    const groups = new Map();
    this.columns.forEach((column, place) => {
      const group = column.group || "What a row is";
      if (!groups.has(group)) groups.set(group, []);
      const words = column.title + (column.unit ? ` (${column.unit})` : "");
      groups.get(group).push(element("label", { title: column.meaning || null }, this.boxes[place], " " + words));
    });
    const usual = () => this.choose(new Set([...this.columns.keys()].filter((place) => this.columns[place].shown)));
    const all = () => this.choose(new Set(this.columns.keys()));
    const chooser = element("details", { class: "columns" }, element("summary", {}, "columns"),
      element("div", { class: "chooser" },
        ...[...groups].map(([group, labels]) => element("fieldset", {}, element("legend", {}, group), ...labels)),
        element("p", {}, element("button", { type: "button", onclick: usual }, "usual columns"), " ", element("button", { type: "button", onclick: all }, "all"))));
    const copy = element("button", { type: "button", class: "copy", onclick: () => this.copy() }, "copy as CSV");
    this.head = element("thead");
    this.body = element("tbody");
    this.scroll = element("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": `${this.spec.title} table`, onscroll: () => this.more() },
      element("table", { class: "results" }, this.head, this.body));
    this.place.replaceChildren(element("div", { class: "tools" }, this.box, this.count, chooser, copy), this.scroll);
  }

  draw() {
    const places = [...this.columns.keys()].filter((place) => this.visible[place]);
    this.places = places;
    this.starts = new Set(places.filter((place, at) => this.columns[place].group && (!at || this.columns[places[at - 1]].group !== this.columns[place].group)));
    const groups = [];
    for (const place of places) {
      const group = this.columns[place].group;
      if (groups.length && groups[groups.length - 1].group === group) groups[groups.length - 1].span += 1;
      else groups.push({ group, span: 1 });
    }
    const over = element("tr", { class: "groups" }, ...groups.map(({ group, span }) => element("th", { colspan: span, scope: "colgroup", class: group ? "start" : null }, group)));
    const heads = places.map((place) => {
      const column = this.columns[place];
      const words = column.unit ? [column.title, " ", element("span", { class: "unit" }, column.unit)] : [column.title];
      return element("th", {
        scope: "col", class: this.kind(place), title: column.meaning || null, "data-column": column.name,
        "aria-sort": place === this.sorted ? (this.falling ? "descending" : "ascending") : null,
      }, element("button", { type: "button", onclick: () => this.sortBy(place) }, ...words));
    });
    this.head.replaceChildren(...(groups.length > 1 ? [over] : []), element("tr", {}, ...heads));
    this.body.replaceChildren();
    this.scroll.scrollTop = 0;
    this.drawn = 0;
    this.slice(SLICE);
    const all = this.rows.length, left = this.order.length;
    this.count.textContent = left === all ? `${all.toLocaleString("en")} ${all === 1 ? "row" : "rows"}` : `${left.toLocaleString("en")} of ${all.toLocaleString("en")} rows`;
  }

  more() {
    const { scrollTop, clientHeight, scrollHeight } = this.scroll;
    if (scrollTop + clientHeight > scrollHeight - 600) this.slice(SLICE);
  }

  slice(many) {
    const next = this.order.slice(this.drawn, this.drawn + many).map((number) => this.row(this.rows[number]));
    this.drawn += next.length;
    this.body.append(...next);
  }

  row(row) {
    return element("tr", { class: row.front ? "front" : null, id: row.anchor }, ...this.places.map((place, at) => {
      const [text, interval, note] = row.cells[place];
      const class_ = this.kind(place) + (text === this.data.null ? " null" : "");
      const parts = at === 0 ? [element("a", { href: "#at=" + row.anchor }, text)] : [text];
      if (interval) parts.push(element("span", { class: "between" }, interval));
      if (at === 0 && row.front) parts.push(element("span", { class: "mark", title: "on a Pareto front" }, " ◆"));
      return element(at === 0 ? "th" : "td", { class: class_, scope: at === 0 ? "row" : null, title: note == null ? null : this.data.words[note] }, ...parts);
    }));
  }

  kind(place) {
    return (this.columns[place].number ? "number" : "word") + (this.starts.has(place) ? " start" : "");
  }

  // ---- taking it elsewhere

  // The columns shown and the rows that pass the filter, under the names of results.csv: stored units, not those of the headings.
  csv() {
    const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const heads = this.places.flatMap((place) => {
      const { name, group } = this.columns[place];
      return group ? [name, name + "_lo", name + "_hi", name + "_n"] : [name];
    });
    const lines = this.order.map((number) => this.places.flatMap((place) => {
      const cell = this.rows[number].cells[place];
      if (this.columns[place].group) return [3, 4, 5, 6].map((at) => cell[at] ?? "");
      return [cell[0] === this.data.null ? "" : cell[0]];
    }));
    return [heads, ...lines].map((line) => line.map((value) => quoted(String(value))).join(",")).join("\n") + "\n";
  }

  async copy() {
    const text = this.csv();
    try {
      await navigator.clipboard.writeText(text);
    } catch { // not every browser lets a file use the clipboard: the old way
      const area = element("textarea", {}, text);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    toast(`${this.order.length.toLocaleString("en")} rows copied as CSV`);
  }

  // For paper: all rows there are, as far as anyone would print them.
  whole() {
    this.slice(Math.max(0, 300 - this.drawn));
  }
}

// ---- everything known about one row

function showDetails(anchor) {
  const table = tables.find((one) => one.rows.some((row) => row.anchor === anchor));
  if (!table) return false;
  const row = table.rows.find((one) => one.anchor === anchor);
  const dialog = document.getElementById("details");
  document.getElementById("details-name").textContent = row.name;
  const groups = new Map();
  table.columns.forEach((column, place) => {
    const [text, interval, note] = row.cells[place];
    const group = column.group || "What it is";
    if (!groups.has(group)) groups.set(group, []);
    const unit = column.unit && text !== data.null ? " " + column.unit : "";
    const words = [element("b", {}, text + unit), interval ? " " + interval : ""];
    if (note != null) words.push(element("span", { class: "muted" }, " " + data.words[note]));
    if (text) groups.get(group).push(element("div", {}, element("dt", {}, column.title), element("dd", {}, ...words)));
  });
  const body = document.getElementById("details-body");
  body.replaceChildren(...[...groups].flatMap(([group, facts]) => [element("h3", {}, group), element("dl", { class: "facts-list" }, ...facts)]));
  if (curves.some((curve) => fits(curve, anchor))) {
    body.prepend(element("p", {}, element("button", { type: "button", onclick: () => { toggleCurve(anchor); dialog.close(); } }, "compare its distribution")));
  }
  const record = data.records[row.key];
  const words = record ? "The whole record, as in " : "The whole record, with settings, versions and machine, is in ";
  body.append(element("h3", {}, "Record"), element("p", { class: "muted" }, words, element("code", {}, "records/" + row.file)));
  if (record) body.append(element("details", {}, element("summary", {}, "show"), element("pre", {}, JSON.stringify(record, null, 1))));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  return true;
}
