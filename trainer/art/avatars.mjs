// Characters of DiceBear as SVG texts. Standard input: a JSON list of {style, seed, options}; standard output: one JSON
// string per line and character. Run where node_modules/@dicebear is found: node avatars.mjs FOLDER < list
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const modules = resolve(process.argv[2], "node_modules");
const entry = (name) => {
  const root = resolve(modules, "@dicebear", name);
  const about = JSON.parse(readFileSync(resolve(root, "package.json"), "utf8"));
  const main = typeof about.exports === "string" ? about.exports : (about.exports?.["."]?.default ?? about.main);
  return pathToFileURL(resolve(root, main));
};

const { createAvatar } = await import(entry("core"));
const styles = new Map();
for (const { style, seed, options } of JSON.parse(readFileSync(0, "utf8"))) {
  if (!styles.has(style)) styles.set(style, await import(entry(style)));
  process.stdout.write(JSON.stringify(createAvatar(styles.get(style), { seed, ...options }).toString()) + "\n");
}
