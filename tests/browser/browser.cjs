/* Opens ComfyUI in a real browser. Used by the browser tests and by hand:

     node browser.cjs make  URL API_WORKFLOW LAYOUT PACKS OUT  arranges an API workflow into a UI workflow, as the frontend saves it
     node browser.cjs check URL UI_WORKFLOW PICTURE            drops a UI workflow on the canvas, queues it, waits for its end
     node browser.cjs check URL UI_WORKFLOW PICTURE groups     the same, and a picture of each group, PICTURE with a number
     node browser.cjs offers URL UI_WORKFLOW NAMES             drops a UI workflow, waits until all file NAMES (JSON list) are offered
     node browser.cjs first URL STEPS [PICTURE]                a graph by hand: searches for nodes, links them, runs (first_steps.json)
     node browser.cjs browse URL WORDS TITLE [PICTURE]         searches the template browser for WORDS, opens the template TITLE

   PACKS is {"ours": {"cnr_id", "ver"}, "core": {...}}. A layout stacks the nodes of an API workflow, named by their titles, in
   groups, and the groups in columns from left to right; its notes have a text in English, Japanese and Chinese; its `app` lists what app mode shows: widgets and results. ["Title", height] asks for at least that height: room for a preview.
   `optional` adds nodes that are switched off (muted) and the links that come from them; `models` says what
   ComfyUI may download for a node. Prints one JSON document. playwright-core is looked for on NODE_PATH; $CHROMIUM names the browser.
*/
const fs = require("fs");
const path = require("path");
const { chromium } = require("playwright-core");

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];
const START_LIMIT = 180000; // milliseconds; the frontend is a few MB of JavaScript
const FRONTENDS_OWN = /Proxy\.removeMask/; // its loading veil, when a workflow comes while the veil is taken away
const RUN_LIMIT = 240000;

async function open(url) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: FLAGS });
  const page = await browser.newPage({ viewport: { width: 1920, height: 1080 } });
  page.setDefaultTimeout(START_LIMIT); // a crowded machine draws slowly
  const errors = [];
  page.on("console", (message) => { if (message.type() === "error") errors.push(`${message.text()} ${message.location().url}`); });
  page.on("pageerror", (error) => errors.push(String(error)));
  // the first-run guides would cover the canvas
  for (const [key, value] of [["Comfy.TutorialCompleted", true], ["Comfy.Workflow.ShowMissingModelsWarning", true],
    ["Comfy.Workflow.ShowMissingNodesWarning", true], ["Comfy.InstalledVersion", "99.0.0"], ["Comfy.Release.Status", "skipped"]]) {
    await page.request.post(`${url}/api/settings/${key}`, { data: JSON.stringify(value), headers: { "Content-Type": "application/json" } });
  }
  await page.goto(url, { timeout: START_LIMIT });
  await page.waitForFunction(() => window.app && window.app.graph && window.app.canvas, null, { timeout: START_LIMIT });
  // The frontend opens a workflow of its own and complains, sooner or later, about its missing models.
  await page.waitForFunction(() => window.app.graph.nodes.length > 0, null, { timeout: START_LIMIT });
  const first = await page.evaluate(() => JSON.stringify(window.app.graph.serialize()));
  await page.waitForLoadState("networkidle", { timeout: START_LIMIT });
  await page.waitForTimeout(2000);
  const theirs = (text) => FRONTENDS_OWN.test(text)
    || (text.match(/https?:\/\/[^'"\s]+[^'"\s.]/g) || []).some((link) => first.includes(link));
  const ours = () => errors.filter((text) => !theirs(text));
  return { browser, page, errors, ours };
}

const SIZES = { MARGIN: 20, TITLE: 30, GAP: 24, HEAD: 52 }; // of groups and nodes; TITLE is what a node draws above itself

async function make(url, apiFile, layoutFile, packs, out) {
  const { browser, page } = await open(url);
  const layout = JSON.parse(fs.readFileSync(layoutFile, "utf8"));
  const saved = await page.evaluate(async ([api, layout, name, packs, sizes]) => {
    const optional = layout.optional || { nodes: {}, links: {} };
    Object.assign(api, optional.nodes);
    for (const [id, links] of Object.entries(optional.links)) Object.assign(api[id].inputs, links);
    await window.app.loadApiJson(api, name);
    const graph = window.app.graph;
    const titles = {};
    for (const node of graph.nodes) titles[node.title] = node;
    for (const { _meta } of Object.values(optional.nodes)) titles[_meta.title].mode = window.LiteGraph.NEVER;
    for (const [title, models] of Object.entries(layout.models || {})) titles[title].properties.models = models;
    for (const note of layout.notes) {
      const node = window.LiteGraph.createNode("MarkdownNote");
      node.title = note.title;
      graph.add(node);
      node.widgets[0].value = [note.text, note.ja, note.zh].join("\n\n---\n\n"); // the frontend translates no notes
      node.color = "#432";
      node.bgcolor = "#653";
      titles[note.title] = node;
    }
    const { MARGIN, TITLE, GAP, HEAD } = sizes;
    const placed = new Set();
    let left = 0;
    for (const column of layout.columns) {
      const width = Math.max(...column.map((group) => group.width));
      let top = 0;
      for (const { title, color, nodes } of column) {
        let bottom = top + HEAD;
        for (const entry of nodes) {
          const [name, height] = Array.isArray(entry) ? entry : [entry, 0];
          const node = titles[name];
          if (!node) throw new Error(`the layout names a node that is not there: ${name}`);
          node.pos = [left + MARGIN, bottom + TITLE];
          node.setSize([width, Math.max(height, node.computeSize()[1])]);
          bottom = node.pos[1] + node.size[1] + GAP;
          placed.add(node.id);
        }
        const group = new window.LiteGraph.LGraphGroup(title);
        group.pos = [left, top];
        group.size = [width + 2 * MARGIN, bottom - GAP + MARGIN - top];
        group.color = color;
        graph.add(group);
        top = bottom + MARGIN;
      }
      left += width + 2.5 * MARGIN;
    }
    const lost = graph.nodes.filter((node) => !placed.has(node.id)).map((node) => node.title);
    if (lost.length) throw new Error(`the layout has no place for ${lost}`);
    for (const node of graph.nodes) { // by these a saved graph says which pack a missing node comes from
      if (node.type === "MarkdownNote") continue;
      Object.assign(node.properties, packs[/^custom_nodes\./.test(node.constructor.nodeData.python_module) ? "ours" : "core"]);
    }
    for (const node of graph.nodes) {
      for (const widget of node.widgets || []) if (widget.name === "control_after_generate") widget.value = "fixed";
    }
    graph.extra.linearData = { // app mode: what a person sees who does not want to see the graph
      inputs: layout.app.inputs.map(([title, widget]) => [String(titles[title].id), widget]),
      outputs: layout.app.outputs.map((title) => String(titles[title].id)),
    };
    await new Promise((done) => setTimeout(done, 500));
    return { ...graph.serialize(), id: layout.id };
  }, [JSON.parse(fs.readFileSync(apiFile, "utf8")), layout, layout.name, JSON.parse(packs), SIZES]);
  fs.writeFileSync(out, JSON.stringify(saved, null, 2) + "\n");
  await browser.close();
  return { nodes: saved.nodes.length, version: saved.version };
}

async function drop(page, uiFile) {
  const text = fs.readFileSync(uiFile, "utf8");
  const data = await page.evaluateHandle(([text, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name, { type: "application/json" }));
    return transfer;
  }, [text, path.basename(uiFile)]);
  await page.dispatchEvent("#graph-canvas", "dragover", { dataTransfer: data });
  await page.dispatchEvent("#graph-canvas", "drop", { dataTransfer: data });
  const count = JSON.parse(text).nodes.length;
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, count, { timeout: START_LIMIT });
  return text;
}

async function offers(url, uiFile, names) {
  const { browser, page } = await open(url);
  await drop(page, uiFile);
  const details = page.getByText("View details");
  const all = (names) => names.every((name) => document.body.innerText.includes(name));
  const wanted = JSON.parse(names);
  const end = Date.now() + START_LIMIT; // the panel comes when the server has answered for every folder, not at once
  while (!(await page.evaluate(all, wanted)) && Date.now() < end) {
    if (await details.count()) await details.first().click().catch(() => {}); // it may have gone again
    await page.waitForTimeout(1000);
  }
  const seen = await page.evaluate(() => ({
    missing: window.app.graph.nodes.filter((node) => !window.LiteGraph.registered_node_types[node.type]).map((node) => node.type),
    words: document.body.innerText,
  }));
  await browser.close();
  return seen;
}

async function runToTheEnd(page, url) {
  const before = Object.keys(await (await page.request.get(`${url}/history`)).json());
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const end = Date.now() + RUN_LIMIT;
  let entry = null;
  while (!entry && Date.now() < end) {
    await page.waitForTimeout(500);
    const history = await (await page.request.get(`${url}/history`)).json();
    const id = Object.keys(history).find((key) => !before.includes(key));
    if (id) entry = history[id];
    const refused = await page.evaluate(() => window.app.lastNodeErrors && JSON.stringify(window.app.lastNodeErrors));
    if (refused && refused !== "{}") { entry = { status: { status_str: "refused", messages: [refused] }, outputs: {} }; }
  }
  return entry;
}

async function first(url, steps, picture) {
  const { open: opened, nodes, links, values } = JSON.parse(fs.readFileSync(steps, "utf8"));
  const { browser, page, errors, ours } = await open(url);
  errors.length = 0;
  await page.evaluate(() => window.app.graph.clear());
  const found = [];
  if (opened) { // a graph of one node, which is the first
    const graph = JSON.parse(fs.readFileSync(path.join(__dirname, "..", "..", opened), "utf8"));
    await page.evaluate((graph) => window.app.loadGraphData(graph), graph);
    await page.waitForFunction(() => window.app.graph.nodes.length === 1, null, { timeout: START_LIMIT });
    found.push(await page.evaluate(() => { const [node] = window.app.graph.nodes; node.first = 0; return node.title; }));
  }
  for (const { search, type, title } of nodes) {
    const number = found.length;
    const before = await page.evaluate(() => window.app.graph.nodes.map((node) => node.id));
    if (search) { // as a person does: double-click on the empty canvas, type, take the first answer
      const field = page.locator('input[role="combobox"][aria-controls="results-list"]').first();
      for (const end = Date.now() + START_LIMIT; !(await field.isVisible()) && Date.now() < end;) {
        await page.mouse.dblclick(960, 540);
        await field.waitFor({ timeout: 10000 }).catch(() => {}); // a crowded machine can miss that it was a double one
      }
      await field.fill(search);
      await page.locator("#results-list").getByText(title).first().waitFor({ timeout: START_LIMIT });
      await page.waitForTimeout(1000); // the list of the whole word, not of its first letters
      await page.keyboard.press("Enter");
      await page.waitForFunction((count) => window.app.graph.nodes.length > count, before.length, { timeout: START_LIMIT });
      await page.waitForTimeout(1000);
      await page.mouse.click(700, 400); // the new node hangs on the mouse until it is put down
      await page.waitForTimeout(1500); // and the next double-click must not be its third
    } else {
      await page.evaluate((type) => window.app.graph.add(window.LiteGraph.createNode(type)), type);
    }
    await page.waitForFunction((count) => window.app.graph.nodes.length > count, before.length, { timeout: START_LIMIT });
    found.push(await page.evaluate(([before, number]) => {
      const node = window.app.graph.nodes.find((node) => !before.includes(node.id));
      node.pos = [3000 + (number % 6) * 420, Math.floor(number / 6) * 700]; // out of sight: the next search needs room
      node.first = number;
      window.app.canvas.deselectAll();
      window.app.canvas.setDirty(true, true);
      return node.type;
    }, [before, number]));
    await page.mouse.move(960, 560);
  }
  await page.evaluate(([links, values]) => {
    const nodes = [];
    for (const node of window.app.graph.nodes) nodes[node.first] = node;
    for (const [from, output, to, input] of links) {
      const slot = nodes[to].inputs.findIndex((slot) => slot.name === input);
      if (slot < 0 || !nodes[from].connect(output, nodes[to], slot)) throw new Error(`no link ${from}.${output} -> ${to}.${input}`);
    }
    for (const [number, widget, value] of values) {
      const found = nodes[number].widgets.find(({ name }) => name === widget);
      found.value = value;
      if (found.callback) found.callback(value);
    }
  }, [links, values]);
  const entry = await runToTheEnd(page, url);
  if (picture) await page.screenshot({ path: picture });
  await browser.close();
  return { found, errors: ours(), status: entry && entry.status, outputs: entry && entry.outputs };
}

async function check(url, uiFile, picture, groups, steps) {
  const { browser, page, errors, ours } = await open(url);
  errors.length = 0; // what the frontend says about its own first start is not ours
  const text = await drop(page, uiFile);
  await page.waitForTimeout(1500);
  const details = page.getByText("View details"); // of what the frontend complains about, missing files for example
  if (await details.count()) {
    await details.first().click();
    await page.waitForTimeout(1500);
  }
  const seen = await page.evaluate(async () => ({
    missing: window.app.graph.nodes.filter((node) => !window.LiteGraph.registered_node_types[node.type]).map((node) => node.type),
    dialogs: [...document.querySelectorAll('[role="dialog"]')].map((dialog) => dialog.innerText.slice(0, 500)),
    words: document.body.innerText,
    // the panel that opens by itself when something of the workflow is missing: pictures, models, nodes
    complaints: [...document.querySelectorAll('[data-testid^="error-"], [data-testid^="missing-"]')].map((e) => e.innerText.slice(0, 300)),
    prompt: (await window.app.graphToPrompt()).output,
  }));
  if (steps) { // of stand-ins, whose pictures mean nothing
    await page.evaluate((steps) => {
      for (const node of window.app.graph.nodes) {
        const widget = (node.widgets || []).find(({ name }) => name === "steps");
        if (widget) widget.value = Number(steps);
      }
    }, steps);
  }
  const entry = await runToTheEnd(page, url);
  await page.waitForTimeout(1500);
  const boxes = await page.evaluate(() => window.app.graph.nodes.map((node) => [node.title, node.pos[0],
    node.pos[1] - window.LiteGraph.NODE_TITLE_HEIGHT, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]));
  let shown = null; // left, top, right, bottom of the graph in the picture
  if (picture) {
    shown = await page.evaluate(() => { // near enough for the words to be drawn, and the whole graph in view
      const { canvas, graph } = window.app;
      const [width, height] = [0, 1].map((side) => Math.max(...graph.groups.map((group) => group.pos[side] + group.size[side])));
      const scale = Math.min(0.84, 1780 / width, 940 / height);
      canvas.ds.scale = scale;
      canvas.ds.offset = [80 / scale, 90 / scale];
      canvas.setDirty(true, true);
      return [70, 80, 90 + width * scale, 100 + height * scale];
    });
    await page.waitForTimeout(8000); // the note about the finished job goes away
    await page.screenshot({ path: picture });
  }
  for (const [number, bounding] of (groups ? JSON.parse(text).groups : []).map((group) => group.bounding).entries()) {
    await page.evaluate(([left, top, width, height]) => {
      const { canvas } = window.app;
      canvas.ds.scale = Math.min(1.2, 2250 / width, 1100 / height);
      canvas.ds.offset = [90 / canvas.ds.scale - left, 100 / canvas.ds.scale - top];
      canvas.setDirty(true, true);
    }, bounding);
    await page.waitForTimeout(1500);
    await page.screenshot({ path: picture.replace(/\.png$/, `-${number + 1}.png`) });
  }
  await browser.close();
  return { ...seen, boxes, shown, errors: ours(), status: entry && entry.status, outputs: entry && entry.outputs };
}

async function browse(url, words, title, picture) {
  const { browser, page } = await open(url);
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.BrowseTemplates"));
  const dialog = page.getByRole("dialog").first();
  await dialog.waitFor({ timeout: START_LIMIT });
  await dialog.getByPlaceholder(/search/i).first().fill(words);
  const card = dialog.getByText(title, { exact: true }).first();
  await card.waitFor({ timeout: START_LIMIT });
  await page.waitForTimeout(1500);
  const titles = (await dialog.innerText()).split("\n");
  const thumbnails = await dialog.evaluate((shown) => [...shown.querySelectorAll("img")].map((image) => image.naturalWidth));
  if (picture) await page.screenshot({ path: picture });
  await card.click();
  await page.waitForFunction(() => window.app.graph.nodes.some((node) => node.type === "ColorizePrepareSketch"), null, { timeout: START_LIMIT });
  await page.waitForTimeout(1500);
  const opened = await page.evaluate(() => ({ nodes: window.app.graph.nodes.length, scale: window.app.canvas.ds.scale }));
  if (picture) await page.screenshot({ path: picture.replace(/\.png$/, "-opened.png") });
  await browser.close();
  return { titles, thumbnails, ...opened };
}

const [action, ...rest] = process.argv.slice(2);
({ make, check, offers, first, browse })[action](...rest).then((result) => console.log(JSON.stringify(result)), (error) => { console.error(error); process.exit(1); });
