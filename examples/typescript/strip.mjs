// Lets a node that can't run TypeScript itself (before 22.18) do so: `node --import ./strip.mjs spoke.mts`.
// Types are only blanked out, by the package that node has built in since (`amaro`), so lines and columns stay.

import { readFile } from "node:fs/promises";
import { createRequire, register } from "node:module";
import { isMainThread } from "node:worker_threads";

// node runs hooks on a thread of their own, which loads this file once more.
if (isMainThread) register(import.meta.url);

export async function load(url, context, next) {
  if (!url.endsWith(".mts")) return next(url, context);
  // Found by NODE_PATH too, which `import` does not look at.
  const { transformSync } = createRequire(import.meta.url)("amaro");
  const source = transformSync(await readFile(new URL(url), "utf8"), { mode: "strip-only" }).code;
  return { format: "module", source, shortCircuit: true };
}
