import { describe, expect, it, vi } from "vitest";
import { below, bytes, parent, share, when } from "./names";
import { type Answer, LOST, type Transport, Uploads } from "./uploads";
import { chosen } from "./walk";

const WELL: Answer = { kind: "", error: "" };
const blob = (size: number) => new Blob([new Uint8Array(size)]);

class Server implements Transport {
  there = new Set<string>();
  folders: string[] = [];
  puts: { path: string; overwrite: boolean; sent: (bytes: number) => void; end: (answer: Answer) => void; stopped: boolean }[] = [];
  why: Answer = WELL;
  async check(path: string, _size: number, overwrite: boolean): Promise<Answer> {
    return this.there.has(path) && !overwrite ? { kind: "exists", error: "there" } : this.why;
  }
  async folder(path: string): Promise<Answer> {
    this.folders.push(path);
    return path.includes("bad") ? { kind: "permission", error: "no" } : WELL;
  }
  put(path: string, _file: Blob, overwrite: boolean, sent: (bytes: number) => void) {
    let end = (_answer: Answer): void => {};
    const done = new Promise<Answer>((resolve) => (end = resolve));
    const put = { path, overwrite, sent, end, stopped: false };
    this.puts.push(put);
    return { done, stop: () => ((put.stopped = true), end(LOST)) };
  }
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

function setUp() {
  const server = new Server();
  let finished = 0;
  const uploads = new Uploads(server, (done) => (finished += Number(done)));
  const add = async (...names: string[]) => {
    await uploads.add("/home", { folders: [], files: names.map((name) => ({ path: [name], file: blob(10) })) });
    await settle();
  };
  const states = () => uploads.all.map(({ status }) => status);
  return { server, uploads, add, states, finished: () => finished };
}

describe("uploads", () => {
  it("sends two at a time, in order", async () => {
    const { server, add, states } = setUp();
    await add("a", "b", "c");
    expect(server.puts.map(({ path }) => path)).toEqual(["/home/a", "/home/b"]);
    server.puts[0]?.end(WELL);
    await settle();
    expect(states()).toEqual(["done", "running", "running"]);
  });

  it("asks before it overwrites, and lets others go on meanwhile", async () => {
    const { server, uploads, add, states } = setUp();
    server.there = new Set(["/home/a", "/home/b", "/home/c"]);
    await add("a", "b", "c", "d");
    expect(states()).toEqual(["asking", "asking", "asking", "running"]);
    uploads.answer(1, false, false);
    await settle();
    expect(states()).toEqual(["stopped", "asking", "asking", "running"]);
    uploads.answer(2, true, true);
    await settle();
    const sent = () => server.puts.map(({ path, overwrite }) => [path, overwrite]);
    expect(sent()).toEqual([["/home/d", false], ["/home/b", true]]); // still two at a time
    server.puts[0]?.end(WELL);
    await settle();
    expect(sent()[2]).toEqual(["/home/c", true]);
  });

  it("asks once for ten thousand, and never sends more than two at a time", async () => {
    const { server, uploads, add, states } = setUp();
    const names = Array.from({ length: 10_000 }, (_, number) => String(number));
    server.there = new Set(names.map((name) => `/home/${name}`));
    await add(...names);
    while (states().includes("waiting") || states().includes("running")) await settle();
    uploads.answer(1, true, true);
    await settle();
    expect(server.puts).toHaveLength(2);
    uploads.stopAll();
    expect(new Set(states())).toEqual(new Set(["stopped"]));
  });

  it("tries one again that was one too many", async () => {
    vi.useFakeTimers();
    const { server, uploads } = setUp();
    server.why = { kind: "busy", error: "four" };
    await uploads.add("/home", { folders: [], files: [{ path: ["a"], file: blob(1) }] });
    await vi.advanceTimersByTimeAsync(10);
    expect(uploads.all[0]?.status).toBe("waiting");
    server.why = WELL;
    await vi.advanceTimersByTimeAsync(2000);
    expect(uploads.all[0]?.status).toBe("running");
    vi.useRealTimers();
  });

  it("says why a cut upload was cut", async () => {
    const { server, uploads, add } = setUp();
    await add("a", "b");
    server.why = { kind: "space", error: "no space" };
    server.puts[0]?.end(LOST);
    await settle();
    server.why = WELL;
    server.puts[1]?.end(LOST);
    await settle();
    expect(uploads.all.map(({ status, error }) => [status, error])).toEqual([["failed", "no space"], ["failed", LOST.error]]);
    uploads.retry(1);
    await settle();
    expect(server.puts).toHaveLength(3);
  });

  it("stops what is under way, waits or asks", async () => {
    const { server, uploads, add, states } = setUp();
    server.there = new Set(["/home/b"]);
    await add("a", "b", "c", "d");
    uploads.stopAll();
    await settle();
    expect(states()).toEqual(["stopped", "stopped", "stopped", "stopped"]);
    expect(server.puts.every(({ stopped }) => stopped)).toBe(true);
    expect(uploads.busy).toBe(false);
    uploads.tidy();
    expect(uploads.all).toEqual([]);
  });

  it("makes folders first, and fails what lies in one that cannot be made", async () => {
    const { server, uploads } = setUp();
    const files = [{ path: ["ok", "x"], file: blob(1) }, { path: ["bad", "y"], file: blob(1) }, { path: ["\ud800"], file: blob(1) }];
    await uploads.add("/home", { folders: [["ok"], ["bad"]], files });
    await settle();
    expect(server.folders).toEqual(["/home/ok", "/home/bad"]);
    expect(uploads.all.map(({ name, status }) => [name, status])).toEqual([["ok/x", "running"], ["bad/y", "failed"], ["\ud800", "failed"], ["bad", "failed"]]);
  });
});

describe("names", () => {
  it("are encoded, each on its own", () => {
    expect(below("/a%20b/", ["c d", "e/f?#"])).toBe("/a%20b/c%20d/e%2Ff%3F%23");
    expect(below("/", ["x"])).toBe("/x");
    expect(parent("/a/b")).toBe("/a");
    expect(parent("/a")).toBe("/");
  });
  it("sizes and times read well", () => {
    expect([0, 999, 1024, 1536 * 1024, 5e12, 99.6 * 1024].map(bytes)).toEqual(["0 B", "999 B", "1.00 KiB", "1.50 MiB", "4.55 TiB", "100 KiB"]);
    expect(when(0, new Date())).toBe("");
    expect(when(1e18, new Date())).toBe("");
    expect(when(86_400, new Date())).toContain("1970");
  });
  it("a share counts empty files, and not what failed", () => {
    const item = (status: string, size: number, sent = 0) => ({ status, sent, file: { size } });
    expect(share([item("done", 0), item("running", 3, 1), item("failed", 100)])).toBe(0.5);
    expect(share([])).toBe(1);
  });
  it("a chosen folder brings its folders, parents first", () => {
    const file = (path: string) => Object.assign(new File([], path.split("/").pop() ?? ""), { webkitRelativePath: path }) as File;
    expect(chosen([file("a/b/x"), file("a/y")]).folders).toEqual([["a"], ["a", "b"]]);
    expect(chosen([file("")]).folders).toEqual([]);
  });
});
