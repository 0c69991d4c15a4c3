// Bundles what the page takes from others into one file, with their licences beside it.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const target = "../src/brain_mri_segmentation/serving/page/viewer";
const digest = createHash("sha256");
for (const source of ["build.mjs", "nothing.js", "package-lock.json", "viewer.js"]) digest.update(readFileSync(source));

const { metafile } = await build({
  entryPoints: ["viewer.js"], outfile: `${target}.js`, bundle: true, minify: true, format: "iife", metafile: true,
  alias: { zarrita: "./nothing.js" }, legalComments: "none", logLevel: "error",
  banner: { js: `// Made by make page. Sources: ${digest.digest("hex")}. Licences: viewer.licences.txt` },
});

const bundle = readFileSync(`${target}.js`, "utf8"), rim = /= (dFd[xy]\(texPos\))/g;  // contours of 2 pixels: 1 can hardly be seen
if (bundle.match(rim)?.length !== 2) throw new Error("NiiVue draws contours in another way. Look at it, and at this line.");
writeFileSync(`${target}.js`, bundle.replace(rim, "= 2.0 * $1"));

const packages = new Set(Object.keys(metafile.inputs).map(path => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]).filter(Boolean));
const licences = [...packages].sort().map(name => {
  const { version, license } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  const file = readdirSync(`node_modules/${name}`).find(file => /^licen[cs]e/i.test(file));
  const text = readFileSync(file ? `node_modules/${name}/${file}` : `licences/${name.replace("/", "-")}.txt`, "utf8");
  return `${name} ${version} (${license})\n\n${text.trim()}\n`;
});
licences.push("Roboto, the font within NiiVue: Apache License 2.0, which the LICENSE of this project holds\n");
writeFileSync(`${target}.licences.txt`, licences.join(`\n${"-".repeat(80)}\n\n`));
