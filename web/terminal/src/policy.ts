/** What xterm.js does that the page's Content-Security-Policy would forbid, done as it allows. */

/** xterm.js makes style elements; the policy admits those that carry this answer's nonce. */
function giveStylesTheNonce(): void {
  const nonce = document.documentElement.dataset["nonce"] ?? "";
  const create = document.createElement.bind(document);
  document.createElement = ((tag: string, options?: ElementCreationOptions) => {
    const made = create(tag, options);
    if (tag.toLowerCase() === "style") made.nonce = nonce;
    return made;
  }) as typeof document.createElement;
}

/** xterm.js without WebGL colours its spans by style attributes, which the policy forbids; CSSOM may do the same. */
function styleSpansByScript(): void {
  HTMLSpanElement.prototype.setAttribute = function (name: string, value: string): void {
    if (name === "style") this.style.cssText = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };
}

/** Once, before the first emulator is made. */
export function keepThePolicy(): void {
  giveStylesTheNonce();
  styleSpansByScript();
}
