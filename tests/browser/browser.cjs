/* Opens ComfyUI in a real browser. Used by the browser tests and by hand:

     node browser.cjs make  URL API_WORKFLOW LAYOUT OUT      arranges an API workflow into a UI workflow, as the frontend saves it
     node browser.cjs check URL UI_WORKFLOW PICTURE          drops a UI workflow on the canvas, queues it, waits for its end
     node browser.cjs check URL UI_WORKFLOW PICTURE groups   the same, and a picture of each group, PICTURE with a number

   A layout places the nodes of an API workflow by their titles: [left, top, width, height], the last two at least what the
   node needs. `optional` adds nodes that are switched off (muted) and the links that come from them; `models` says what
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
  const page = await browser.newPage({ viewport: { width: 2400, height: 1250 } });
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

async function make(url, apiFile, layoutFile, out) {
  const { browser, page } = await open(url);
  const layout = JSON.parse(fs.readFileSync(layoutFile, "utf8"));
  const saved = await page.evaluate(async ([api, layout, name]) => {
    const optional = layout.optional || { nodes: {}, links: {} };
    Object.assign(api, optional.nodes);
    for (const [id, links] of Object.entries(optional.links)) Object.assign(api[id].inputs, links);
    await window.app.loadApiJson(api, name);
    const graph = window.app.graph;
    const titles = {};
    for (const node of graph.nodes) titles[node.title] = node;
    for (const { _meta } of Object.values(optional.nodes)) titles[_meta.title].mode = window.LiteGraph.NEVER;
    for (const [title, models] of Object.entries(layout.models || {})) titles[title].properties.models = models;
    for (const [title, place] of Object.entries(layout.nodes)) {
      const node = titles[title];
      if (!node) throw new Error(`the layout names a node that is not there: ${title}`);
      node.pos = [place[0], place[1]];
      const least = node.computeSize();
      node.setSize([place[2] || least[0], Math.max(place[3] || 0, least[1])]);
    }
    for (const note of layout.notes) {
      const node = window.LiteGraph.createNode("MarkdownNote");
      node.title = note.title;
      graph.add(node);
      node.pos = note.pos;
      node.setSize(note.size);
      node.widgets[0].value = note.text;
      node.color = "#432";
      node.bgcolor = "#653";
    }
    for (const { title, bounding, color } of layout.groups) {
      const group = new window.LiteGraph.LGraphGroup(title);
      group.pos = [bounding[0], bounding[1]];
      group.size = [bounding[2], bounding[3]];
      group.color = color;
      graph.add(group);
    }
    for (const node of graph.nodes) {
      for (const widget of node.widgets || []) if (widget.name === "control_after_generate") widget.value = "fixed";
    }
    await new Promise((done) => setTimeout(done, 500));
    return { ...graph.serialize(), id: layout.id };
  }, [JSON.parse(fs.readFileSync(apiFile, "utf8")), layout, path.basename(apiFile, ".json")]);
  fs.writeFileSync(out, JSON.stringify(saved, null, 2) + "\n");
  await browser.close();
  return { nodes: saved.nodes.length, version: saved.version };
}

async function check(url, uiFile, picture, groups) {
  const { browser, page, errors, ours } = await open(url);
  const text = fs.readFileSync(uiFile, "utf8");
  errors.length = 0; // what the frontend says about its own first start is not ours
  const data = await page.evaluateHandle(([text, name]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name, { type: "application/json" }));
    return transfer;
  }, [text, path.basename(uiFile)]);
  await page.dispatchEvent("#graph-canvas", "dragover", { dataTransfer: data });
  await page.dispatchEvent("#graph-canvas", "drop", { dataTransfer: data });
  const count = JSON.parse(text).nodes.length;
  await page.waitForFunction((count) => window.app.graph.nodes.length === count, count, { timeout: START_LIMIT });
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
    prompt: (await window.app.graphToPrompt()).output,
  }));
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
  await page.waitForTimeout(1500);
  if (picture) {
    await page.evaluate(() => { // near enough for the words to be drawn, and the whole graph in view
      const { canvas } = window.app;
      canvas.ds.scale = 0.84;
      canvas.ds.offset = [65, 90];
      canvas.setDirty(true, true);
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
  return { ...seen, errors: ours(), status: entry && entry.status, outputs: entry && entry.outputs };
}

const [action, ...rest] = process.argv.slice(2);
({ make, check })[action](...rest).then((result) => console.log(JSON.stringify(result)), (error) => { console.error(error); process.exit(1); });
