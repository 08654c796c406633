/** What a drop or a file dialog holds, folders and all, as a flat list. */

import type { Found } from "./uploads";

const MOST_FILES = 10_000;

export class TooMuch extends Error {
  constructor() {
    super(`More than ${MOST_FILES.toLocaleString("en")} files at once: upload an archive and unpack it in the shell`);
  }
}

/** Must be called while the event is handled: the items are gone afterwards. */
export async function dropped(items: DataTransferItemList): Promise<Found> {
  const entries = [...items].filter(({ kind }) => kind === "file").map((item) => item.webkitGetAsEntry() ?? item.getAsFile());
  const found: Found = { folders: [], files: [] };
  for (const entry of entries) {
    if (entry instanceof File) found.files.push({ path: [entry.name], file: entry });
    else if (entry) await walk(entry, [], found);
  }
  return found;
}

async function walk(entry: FileSystemEntry, above: string[], found: Found): Promise<void> {
  const path = [...above, entry.name];
  if (entry.isFile) {
    const file = await new Promise<File>((resolve, reject) => (entry as FileSystemFileEntry).file(resolve, reject));
    found.files.push({ path, file });
    if (found.files.length > MOST_FILES) throw new TooMuch();
    return;
  }
  found.folders.push(path);
  if (found.folders.length > MOST_FILES) throw new TooMuch();
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  for (;;) {
    const batch = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return; // a reader gives at most 100 at a time
    for (const each of batch) await walk(each, path, found);
  }
}

/** What a file dialog gave; one that chose a folder says where in it each file lies. */
export function chosen(files: Iterable<File>): Found {
  const found: Found = { folders: [], files: [] };
  const known = new Set<string>();
  for (const file of files) {
    const path = (file.webkitRelativePath || file.name).split("/");
    for (let depth = 1; depth < path.length; depth++) {
      const folder = path.slice(0, depth);
      if (!known.has(folder.join("/"))) {
        known.add(folder.join("/"));
        found.folders.push(folder);
      }
    }
    found.files.push({ path, file });
    if (found.files.length > MOST_FILES) throw new TooMuch();
  }
  return found;
}
