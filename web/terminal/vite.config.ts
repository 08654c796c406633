import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const out = resolve(import.meta.dirname, "../../src/dozlab/terminal_sidecar/page");

/** Leaves a packed copy beside each asset, so that the sidecar never spends CPU on it. */
function pack(): Plugin {
  return {
    name: "pack",
    apply: "build",
    closeBundle() {
      const assets = join(out, "assets");
      for (const name of readdirSync(assets)) {
        if (!name.endsWith(".gz")) writeFileSync(join(assets, name + ".gz"), gzipSync(readFileSync(join(assets, name)), { level: 9 }));
      }
    },
  };
}

export default defineConfig({
  base: "./",
  build: {
    outDir: out,
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: false,
    chunkSizeWarningLimit: 1000,
    rolldownOptions: {
      input: Object.fromEntries(["index", "login", "join"].map((name) => [name, resolve(import.meta.dirname, `${name}.html`)])),
    },
  },
  plugins: [pack()],
});
