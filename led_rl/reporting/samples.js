"use strict";
// The sample browser. All names and texts come in as data and go out by textContent, so none of them is ever markup.
(() => {
  const ROWS = 50; // of a page of the list
  const VERDICTS = ["wrong", "right", "not judged"];
  const byId = (id) => document.getElementById(id);
  const made = (tag, kind, text) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  };
  const chunks = new Map(); // the last few that were looked at
  const chunk = async (number) => {
    if (!chunks.has(number)) {
      if (chunks.size > 3) chunks.delete(chunks.keys().next().value);
      chunks.set(number, unpack(`sample-chunk-${number}`));
    }
    return chunks.get(number);
  };

  // Characters that are invisible or that turn the direction of what follows are written out.
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;
  const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
  const named = (letter) => `⟨U+${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  const visible = (text) => text.replace(HIDDEN, named).replace(LONE, named);

  const fill = (select, entries) => select.replaceChildren(...entries.map(([value, text]) => {
    const option = made("option", "", visible(text));
    option.value = value;
    return option;
  }));

  const start = async () => {
    const index = await unpack("sample-index");
    const column = Object.fromEntries((index.columns || []).map((name, place) => [name, place]));
    const get = (row, name) => row[column[name]];
    const nameOf = (row, kind) => index[`${kind}s`][get(row, kind)];
    const groupOf = (row) => `${get(row, "checkpoint")}|${get(row, "arm")}`;
    const groupName = (row) => `${nameOf(row, "checkpoint")} · ${nameOf(row, "arm")}`;
    const byProblem = new Map();
    for (const row of index.rows) {
      if (!byProblem.has(get(row, "problem"))) byProblem.set(get(row, "problem"), []);
      byProblem.get(get(row, "problem")).push(row);
    }

    const filters = { benchmark: byId("filter-benchmark"), checkpoint: byId("filter-checkpoint"), arm: byId("filter-arm") };
    for (const [kind, select] of Object.entries(filters)) {
      const names = index[`${kind}s`] || [];
      fill(select, [["", "all"], ...names.map((name, place) => [place, name || "(unnamed)"])]);
      if (names.length < 2) select.parentElement.hidden = kind === "benchmark";
    }
    const verdict = byId("filter-verdict");
    fill(verdict, [["", "all"], ["1", "right"], ["0", "wrong"], ["2", "not judged"], ["cut", "cut off"]]);
    const problem = byId("filter-problem");
    let page = 0;
    let shown = [];

    const matches = (row) =>
      Object.entries(filters).every(([kind, select]) => select.value === "" || get(row, kind) === Number(select.value)) &&
      (verdict.value === "" || (verdict.value === "cut" ? !get(row, "finished") : get(row, "correct") === Number(verdict.value))) &&
      (problem.value === "" || nameOf(row, "problem").includes(problem.value));

    const verdictChip = (row) => {
      const chip = made("span", `chip verdict-${get(row, "correct")}`, VERDICTS[get(row, "correct")]);
      if (get(row, "finished")) return [chip];
      return [chip, made("span", "chip cut", "cut off")];
    };
    const exploredText = (row) => (get(row, "explored") < 0 ? "–" : get(row, "explored").toLocaleString("en"));

    const list = () => {
      const pages = Math.max(1, Math.ceil(shown.length / ROWS));
      page = Math.min(Math.max(page, 0), pages - 1);
      byId("page-place").textContent =
        `${shown.length.toLocaleString("en")} of ${index.rows.length.toLocaleString("en")} completions, page ${page + 1} of ${pages}`;
      byId("page-back").disabled = page === 0;
      byId("page-on").disabled = page === pages - 1;
      byId("rows").replaceChildren(...shown.slice(page * ROWS, (page + 1) * ROWS).map((row) => {
        const line = made("tr");
        const first = made("td");
        const button = made("button", "link", visible(nameOf(row, "problem")));
        button.type = "button";
        first.append(button);
        const chips = made("td");
        chips.append(...verdictChip(row));
        line.append(first, made("td", "", get(row, "sample")), chips, made("td", "", visible(nameOf(row, "arm"))),
          made("td", "", visible(nameOf(row, "checkpoint"))), made("td", "", get(row, "thinking").toLocaleString("en")),
          made("td", "", get(row, "answer").toLocaleString("en")), made("td", "", exploredText(row)));
        line.addEventListener("click", () => open(row));
        return line;
      }));
    };
    const filter = () => { shown = index.rows.filter(matches); page = 0; list(); };
    for (const input of [...Object.values(filters), verdict]) input.addEventListener("change", filter);
    problem.addEventListener("input", filter);
    byId("page-back").addEventListener("click", () => { page -= 1; list(); });
    byId("page-on").addEventListener("click", () => { page += 1; list(); });

    // Two sides of one problem.
    const sides = [byId("side-a"), byId("side-b")];
    const state = { rows: [], chosen: [null, null] };
    let other = null; // the arm of the second side, kept from problem to problem

    const open = (row) => {
      state.rows = byProblem.get(get(row, "problem"));
      const rest = state.rows.filter((candidate) => groupOf(candidate) !== groupOf(row));
      const beside = rest.find((candidate) => groupOf(candidate) === other && get(candidate, "sample") === get(row, "sample")) ||
        rest.find((candidate) => get(candidate, "checkpoint") === get(row, "checkpoint") && get(candidate, "sample") === get(row, "sample")) ||
        rest[0] || state.rows.find((candidate) => candidate !== row) || null;
      state.chosen = [row, beside];
      return draw(true);
    };

    sides.forEach((side, place) => {
      side.querySelector(".group").addEventListener("change", (event) => {
        const rows = state.rows.filter((row) => groupOf(row) === event.target.value);
        const now = get(state.chosen[place], "sample");
        state.chosen[place] = rows.find((row) => get(row, "sample") === now) || rows[0];
        if (place === 1) other = groupOf(state.chosen[1]);
        draw(false);
      });
      side.querySelector(".sample").addEventListener("change", (event) => {
        const group = groupOf(state.chosen[place]);
        state.chosen[place] = state.rows.find((row) => groupOf(row) === group && get(row, "sample") === Number(event.target.value));
        draw(false);
      });
    });

    const piecesOf = (item, vocabulary) => (item.tokens ? item.tokens.map((token) => vocabulary[token]) : [...item.text]);

    const draw = async (scroll) => {
      const chosen = [...state.chosen];
      const data = await Promise.all(chosen.map((row) => row && chunk(get(row, "chunk"))));
      if (chosen.some((row, place) => row !== state.chosen[place])) return; // another one was opened meanwhile
      const items = chosen.map((row, place) => row && data[place].items[get(row, "position")]);
      const pieces = items.map((item, place) => item && piecesOf(item, data[place].vocabulary));
      const first = chosen[0];
      byId("problem").hidden = false;
      const benchmark = nameOf(first, "benchmark");
      byId("problem-title").textContent = visible(`${benchmark ? `${benchmark}, ` : ""}problem ${nameOf(first, "problem")}`);
      byId("prompt").textContent = visible(data[0].prompts[items[0].prompt]);
      let parting = -1;
      if (items[1]) {
        const same = Math.min(pieces[0].length, pieces[1].length);
        parting = 0;
        while (parting < same && pieces[0][parting] === pieces[1][parting]) parting += 1;
        const unit = items[0].tokens && items[1].tokens ? "token" : "character";
        const equal = parting === pieces[0].length && parting === pieces[1].length;
        byId("parting").textContent = equal
          ? "Both sides are the same."
          : `The sides are the same for ${parting.toLocaleString("en")} ${unit}s and part at ${unit} ${(parting + 1).toLocaleString("en")}.`;
        if (equal) parting = -1;
      } else {
        byId("parting").textContent = "There is no other completion of this problem.";
      }
      sides.forEach((side, place) => drawSide(side, chosen[place], items[place], pieces[place], parting));
      if (scroll) byId("problem").scrollIntoView({ block: "nearest" });
    };

    const drawSide = (side, row, item, pieces, parting) => {
      side.hidden = !row;
      if (!row) return;
      const groups = new Map(state.rows.map((each) => [groupOf(each), groupName(each)]));
      const group = side.querySelector(".group");
      fill(group, [...groups]);
      group.value = groupOf(row);
      const samples = state.rows.filter((each) => groupOf(each) === groupOf(row));
      const sample = side.querySelector(".sample");
      fill(sample, samples.map((each) => [get(each, "sample"), `sample ${get(each, "sample")}: ${VERDICTS[get(each, "correct")]}`]));
      sample.value = get(row, "sample");
      side.querySelector(".verdict").replaceChildren(...verdictChip(row));
      const facts = [`reward ${get(row, "reward") ?? "none"}`, `${get(row, "thinking")} thinking and ${get(row, "answer")} answer tokens`];
      if (item.extracted !== null && item.extracted !== undefined) facts.unshift(`answer ${visible(item.extracted)}`);
      if (!item.tokens) facts.push("tokens are not told apart: no token ids or tokenizer");
      else if (!index.explores[get(row, "arm")]) facts.push("this arm reads no latent layers");
      else if (!item.explored) facts.push("which tokens LED explored was not recorded");
      else facts.push(`${get(row, "explored")} tokens explored`);
      if (item.led.confidence != null) facts.push(`mean confidence ${item.led.confidence.toFixed(3)}`);
      side.querySelector(".facts").textContent = facts.join(" · ");
      // Neighbours of one kind share an element; a long text has few kinds in a row and so few elements.
      const kind = (place) =>
        `${item.tokens ? (item.thinking[place] === "1" ? "thinking" : "answer") : "plain"}` +
        `${item.explored && item.explored[place] === "1" ? " explored" : ""}${place === parting ? " parted" : ""}`;
      const nodes = [];
      for (let from = 0; from < pieces.length;) {
        const now = kind(from);
        let to = from + 1;
        const joins = !now.includes("explored") && !now.includes("parted");
        while (joins && to < pieces.length && kind(to) === now) to += 1;
        nodes.push(made("span", now, visible(pieces.slice(from, to).join(""))));
        from = to;
      }
      if (parting === pieces.length) nodes.push(made("span", "parted", "⟨ends here⟩"));
      side.querySelector("pre").replaceChildren(...nodes);
    };

    filter();
    byId("browser").dataset.ready = index.rows.length;
    return { open: (place) => open(shown[place]) };
  };

  if (typeof DecompressionStream === "undefined") {
    byId("browser").append(made("p", "note", "This browser cannot unpack the samples (no DecompressionStream); one of 2023 or newer can."));
    return;
  }
  start().catch((error) => {
    byId("browser").append(made("p", "note", `The samples cannot be shown: ${error.message}`));
    throw error;
  });
})();
