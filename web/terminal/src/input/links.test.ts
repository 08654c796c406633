import { expect, test } from "vitest";
import { isWebLink } from "./links";

test("links to the web are opened", () => {
  for (const uri of ["http://a.example", "HTTPS://a.example:8080/x?y#z", "http://127.0.0.1/"]) expect(isWebLink(uri)).toBe(true);
});

test("no other link is opened", () => {
  for (const uri of ["javascript:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "JavaScript:http://a.example", "data:text/html,http://a", "file:///etc/passwd",
    "vbscript:x", "blob:http://a.example/1", "ssh://a.example", "mailto:a@a.example", "//a.example", "/logout", "logout", "", "httpx://a"]) expect(isWebLink(uri)).toBe(false);
});
