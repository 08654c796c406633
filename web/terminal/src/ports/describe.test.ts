import { expect, it } from "vitest";
import { describe as words } from "./describe";

it("says who reaches a port, and what it usually is", () => {
  const port = { port: 3000, addresses: ["127.0.0.1", "::1"], open: false, link: true };
  expect(words(port)).toBe("the machine itself");
  expect(words({ ...port, port: 22, addresses: ["0.0.0.0", "::"], open: true })).toBe("SSH · every address");
  expect(words({ ...port, addresses: ["172.17.0.1"], open: true })).toBe("172.17.0.1");
});
