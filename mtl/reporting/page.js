"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // ---- charts -------------------------------------------------------------------------------------------------------
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  const narrow = () => innerWidth < 600;

  const theme = () => ({
    background: null,
    font: "system-ui, sans-serif",
    axis: {
      labelColor: colour("--text"), titleColor: colour("--soft"), gridColor: colour("--line"), domainColor: colour("--line"),
      tickColor: colour("--line"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: narrow() ? 190 : 240,
    },
    legend: {
      labelColor: colour("--text"), titleColor: colour("--soft"), labelFontSize: 12, orient: "bottom", columns: narrow() ? 1 : 2,
      titleFontWeight: "normal", labelLimit: 260, symbolOpacity: 1, direction: "horizontal",
    },
    header: { labelColor: colour("--text"), titleColor: colour("--soft") },
    title: { color: colour("--text") },
    view: { stroke: null },
    text: { color: colour("--text"), fontSize: 12 },
    rule: { color: colour("--soft") },
    style: { plain: { fill: colour("--text") } },
  });

  const tooltip = (handler, event, item, value) => {
    const box = document.getElementById("tooltip");
    if (value === null || value === undefined || value === "") { box.hidden = true; return; }
    box.replaceChildren();
    for (const [name, told] of Object.entries(typeof value === "object" ? value : { "": value })) {
      const line = document.createElement("div");
      const head = document.createElement("b");
      head.textContent = name ? `${name}: ` : "";
      line.append(head, String(told));
      box.append(line);
    }
    box.hidden = false;
    const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
    const below = event.clientY + 14;
    const top = below + box.offsetHeight > innerHeight ? event.clientY - box.offsetHeight - 10 : below;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${Math.max(8, top)}px`;
  };

  const draw = async (id) => {
    const place = document.getElementById(id);
    if (!place) return;
    await vegaEmbed(place, { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...specs[id] }, {
      actions: false, ast: true, defaultStyle: false, renderer: "svg", config: theme(), tooltip,
    });
    place.dataset.drawn = "yes";
  };

  // A chart in a folded part has no width until it is opened: each is drawn when it comes near the screen.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target.id); }
  }, { rootMargin: "400px" });
  const ids = Object.keys(specs);
  if (ids.length) {
    const box = document.createElement("div");
    box.id = "tooltip";
    box.hidden = true;
    document.body.append(box);
    for (const id of ids) { const place = document.getElementById(id); if (place) near.observe(place); }
    dark.addEventListener("change", () => ids.forEach((id) => { if (document.getElementById(id)?.dataset.drawn) draw(id); }));
    addEventListener("beforeprint", () => ids.forEach(draw));
    addEventListener("scroll", () => { box.hidden = true; }, { passive: true });
  }

  // ---- tables -------------------------------------------------------------------------------------------------------
  const collator = new Intl.Collator(undefined, { numeric: true });
  const value = (row, at) => {
    const cell = row.cells[at];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number") return 1; // cells without a figure come together
    if (typeof b === "number") return -1;
    return collator.compare(a, b);
  };

  for (const frame of document.querySelectorAll(".sortable")) {
    const body = frame.querySelector("tbody");
    const heads = [...frame.querySelectorAll("thead th")];
    heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
      const figures = head.classList.contains("figure");
      const now = head.getAttribute("aria-sort");
      const next = now === "none" ? (figures ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? next : "none"));
      const sign = next === "ascending" ? 1 : -1;
      body.append(...[...body.rows].sort((a, b) => sign * compare(value(a, at), value(b, at))));
    }));
    const input = frame.querySelector("input[type=search]");
    if (!input) continue;
    const told = frame.querySelector("output");
    const texts = new Map([...body.rows].map((row) => [row, row.textContent.toLocaleLowerCase()]));
    input.addEventListener("input", () => {
      const words = input.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const [row, text] of texts) {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      told.textContent = words.length ? `${shown.toLocaleString("en")} of ${texts.size.toLocaleString("en")} rows` : `${texts.size.toLocaleString("en")} rows`;
    });
  }
})();
