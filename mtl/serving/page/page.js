"use strict";
(() => {
  const LOW = 0.6, MARGIN = 0.2; // below these a prediction is marked as unsure where the model cannot abstain
  const NEAREST = 3;
  const SHOWN = 50, CHARACTERS = 200000;
  const at = (id) => document.getElementById(id);
  const element = (tag, text, kind) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  // ---- the server ---------------------------------------------------------------------------------------------------
  let tasks = null, most = 64, examples = 0;
  const ask = async (path, body) => {
    const headers = {};
    if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
    } catch { throw new Error("The server cannot be reached."); }
    if (answer.status === 429) { // full: come back when it says so
      await new Promise((done) => setTimeout(done, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
      return ask(path, body);
    }
    const content = await answer.json().catch(() => ({}));
    if (answer.status === 401) at("access").hidden = false;
    if (!answer.ok) throw new Error(content.error || `The server answered ${answer.status}.`);
    return content;
  };
  const ready = async () => {
    if (tasks) return;
    const info = await ask("info");
    tasks = info.tasks;
    examples = info.examples;
    most = Math.min(64, info.limits.texts);
    at("model").textContent = info.model;
    const without = Object.keys(tasks).filter((task) => !info.can_abstain[task]);
    at("levels").hidden = without.length > 0;
    at("no-levels").hidden = !without.length;
    at("no-levels").textContent = `No label sets and no abstention: the model keeps no validation rows of ${without.join(", ")}.`;
    offer("coverage", [0.8, 0.9, 0.95, 0.99], info.coverage, 0.9);
    offer("max-risk", [0.01, 0.05, 0.1], info.max_risk, 0.05);
    explain();
  };
  const offer = (id, values, ofServer, usual) => { // the server's own value holds for every request without one
    const offered = ofServer === null ? ["", ...values] : [...new Set([...values, ofServer])].sort((a, b) => a - b);
    at(id).replaceChildren(...offered.map((value) => {
      const option = element("option", value === "" ? "off" : `${shortest(100 * value)} %`);
      option.value = value;
      return option;
    }));
    at(id).value = ofServer ?? usual;
  };
  const shortest = (value) => String(Number(value.toPrecision(6)));
  const level = (id) => at("levels").hidden ? "" : at(id).value;
  const query = (more) => {
    const found = new URLSearchParams(more);
    if (level("coverage")) found.set("coverage", level("coverage"));
    if (level("max-risk")) found.set("max_risk", level("max-risk"));
    return found.size ? `predict?${found}` : "predict";
  };
  const explain = () => {
    at("rule").textContent = level("max-risk")
      ? `“unsure: would abstain”: to answer would risk more than ${shortest(100 * level("max-risk"))} % wrong answers.`
      : "“unsure”: the most probable label has less than 60 %, or leads by less than 20 percentage points.";
  };
  const fail = (error) => { at("error").textContent = error.message; at("error").hidden = false; };
  const attempt = async (action) => {
    at("error").hidden = true;
    try { await ready(); await action(); } catch (error) { fail(error); }
  };

  // ---- one sentence -------------------------------------------------------------------------------------------------
  const ranked = (prediction) => Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  const unsure = (prediction) => { // the text of the mark, empty where there is none
    if (prediction.abstain !== undefined) return prediction.abstain ? "unsure: would abstain" : "";
    const [first, second] = ranked(prediction).map((entry) => entry[1]);
    return first < LOW || (second !== undefined && first - second < MARGIN) ? "unsure" : "";
  };
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  const card = (task, prediction) => {
    const doubt = unsure(prediction);
    const made = element("article", undefined, doubt ? "card unsure" : "card");
    made.append(element("h3", task), element("p", prediction.label, "label"));
    if (doubt) made.append(element("p", doubt, "unsure-note"));
    if (prediction.coarse) made.append(element("p", `${prediction.coarse.label} ${percent(prediction.coarse.probabilities[prediction.coarse.label])}`, "note"));
    const list = element("ul");
    for (const [label, value] of ranked(prediction)) {
      const row = element("li"), bar = element("div", undefined, "bar"), filled = element("span");
      filled.style.width = `${100 * value}%`;
      bar.append(filled);
      const name = element("span", label);
      if (prediction.set?.includes(label)) name.append(" ", element("span", "in the set", "in-set"));
      row.append(name, element("span", percent(value)), bar);
      list.append(row);
    }
    made.append(list);
    if (prediction.set && !prediction.set.length) made.append(element("p", "The set is empty: the text is unlike all rows of the data.", "note"));
    if (prediction.nearest) made.append(neighbours(prediction));
    return made;
  };
  const neighbours = (prediction) => {
    const made = element("div", undefined, "nearest"), list = element("ul");
    made.append(element("h4", prediction.nearest.length ? "Nearest examples" : "No examples"), list);
    for (const row of prediction.nearest) {
      const line = element("li", `“${row.text}”`), facts = element("div", undefined, "note");
      if (row.label !== null) facts.append(element("strong", row.label), row.label === prediction.label ? ", " : " (another label), ");
      facts.append(`similarity ${row.similarity.toFixed(3)}, ${row.source}`);
      line.append(facts);
      list.append(line);
    }
    return made;
  };
  let shown = null; // the text whose predictions are shown
  const predict = () => attempt(async () => {
    const text = at("text").value;
    if (!text.trim()) throw new Error("Type a sentence first.");
    const answer = await ask(query(examples ? { nearest: NEAREST } : {}), { inputs: text });
    shown = text;
    at("answer").replaceChildren(...Object.entries(answer).map(([task, prediction]) => card(task, prediction)));
  });
  at("single").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
  at("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); predict(); }
  });
  for (const id of ["coverage", "max-risk"]) {
    at(id).addEventListener("change", () => { explain(); if (shown !== null && shown === at("text").value) predict(); });
  }
  at("access").addEventListener("submit", (event) => event.preventDefault()); // Enter is a change too
  at("token").addEventListener("change", () => { tasks = null; attempt(async () => { at("access").hidden = true; }); });

  // ---- a file -------------------------------------------------------------------------------------------------------
  const parse = (text) => { // RFC 4180
    const rows = [];
    let row = [], cell = "", quoted = false;
    for (let i = 0; i < text.length; i += 1) {
      const c = text[i];
      if (quoted) {
        if (c !== '"') cell += c;
        else if (text[i + 1] === '"') { cell += c; i += 1; } else quoted = false;
      } else if (c === '"' && cell === "") quoted = true;
      else if (c === ",") { row.push(cell); cell = ""; }
      else if (c === "\n" || c === "\r") {
        if (c === "\r" && text[i + 1] === "\n") i += 1;
        row.push(cell); rows.push(row); row = []; cell = "";
      } else cell += c;
    }
    if (quoted) throw new Error("The file ends within quotes: it is not a CSV file.");
    if (cell || row.length) { row.push(cell); rows.push(row); }
    return rows.filter((cells) => cells.length > 1 || cells[0] !== "");
  };
  const quote = (value) => { // as in the files that the commands write: no spreadsheet runs a text as a formula
    const text = String(value);
    return `"${(/^'*[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  const number = (value) => String(Math.round(value * 1e6) / 1e6);

  let table = [], address = null, stem = "file";
  const choose = (file) => attempt(async () => {
    at("column-line").hidden = at("download").hidden = at("table").hidden = true;
    at("status").textContent = "";
    let text;
    try { text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()); } catch { throw new Error(`${file.name} is not UTF-8.`); }
    table = parse(text);
    if (table.length < 2) throw new Error(`${file.name} has no rows below a heading.`);
    stem = file.name.replace(/\.[^.]*$/, "");
    at("column").replaceChildren(...table[0].map((name, place) => { const option = element("option", name); option.value = place; return option; }));
    at("column").value = Math.max(0, table[0].indexOf("text"));
    at("column-line").hidden = false;
    at("status").textContent = `${table.length - 1} rows`;
    at("start").focus();
  });
  const parts = (texts) => { // as many texts as the server takes at once
    const found = [];
    let part = [], size = 0;
    for (const text of texts) {
      if (part.length && (part.length === most || size + text.length > CHARACTERS)) { found.push(part); part = []; size = 0; }
      part.push(text);
      size += text.length;
    }
    return [...found, part];
  };
  const label = () => attempt(async () => {
    at("start").disabled = true;
    try {
      const column = Number(at("column").value), rows = table.slice(1);
      const predictions = [], path = query({}); // the same levels for all rows
      at("progress").hidden = false;
      for (const part of parts(rows.map((row) => row[column] ?? ""))) {
        predictions.push(...await ask(path, { inputs: part }));
        at("progress").value = predictions.length / rows.length;
        at("status").textContent = `${predictions.length} of ${rows.length} rows`;
      }
      const names = Object.entries(tasks);
      const cells = names.flatMap(([task, labels]) => [ // the columns of mtl.predict
        [task, (found) => quote(found.label)],
        ...("set" in predictions[0][task] ? [[`${task} set`, (found) => quote(found.set.join(" | "))]] : []),
        ...("abstain" in predictions[0][task] ? [[`${task} abstain`, (found) => quote(found.abstain)]] : []),
        ...labels.map((name) => [`p(${task}=${name})`, (found) => number(found.probabilities[name])]),
      ].map(([heading, cell]) => [heading, (row) => cell(row[task])]));
      const heading = [...table[0], ...cells.map(([name]) => name)];
      const lines = rows.map((row, place) => [
        ...table[0].map((_, cell) => quote(row[cell] ?? "")),
        ...cells.map(([, cell]) => cell(predictions[place])),
      ].join(","));
      if (address) URL.revokeObjectURL(address);
      address = URL.createObjectURL(new Blob([[heading.map(quote).join(","), ...lines, ""].join("\r\n")], { type: "text/csv" }));
      at("download").href = address;
      at("download").download = `${stem}_labelled.csv`;
      at("download").hidden = false;
      show(rows, predictions, column, names);
    } finally { at("start").disabled = false; at("progress").hidden = true; }
  });
  const show = (rows, predictions, column, names) => {
    const made = element("table"), head = element("tr"), body = element("tbody"), top = element("thead");
    head.append(...["text", ...names.map(([task]) => task)].map((name) => { const cell = element("th", name); cell.scope = "col"; return cell; }));
    top.append(head);
    rows.slice(0, SHOWN).forEach((row, place) => {
      const line = element("tr");
      line.append(element("td", row[column] ?? ""));
      for (const [task] of names) {
        const found = predictions[place][task];
        const cell = element("td", `${found.label} ${percent(found.probabilities[found.label])}`), doubt = unsure(found);
        if (doubt) cell.append(element("div", doubt, "unsure-note"));
        line.append(cell);
      }
      body.append(line);
    });
    made.append(top, body);
    at("table").replaceChildren(made);
    at("table").hidden = false;
  };
  at("file").addEventListener("change", () => { if (at("file").files.length) choose(at("file").files[0]); });
  at("start").addEventListener("click", label);
  for (const name of ["dragover", "dragleave", "drop"]) {
    at("drop").addEventListener(name, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
    });
  }
  attempt(async () => {});
})();
