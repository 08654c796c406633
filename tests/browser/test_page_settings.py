"""Settings, clipboard, paste guard and links of the terminal's page, as a user meets them."""

from __future__ import annotations

import base64

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import (
    PROMPT,
    WATCH,
    at_prompt,
    command,
    open_live,
    screen_has,
    shot,
    state,
    type_line,
    until,
)
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CLIPBOARD = "navigator.clipboard.readText()"
PASTE = """text => {
  const clipboardData = new DataTransfer();
  clipboardData.setData('text/plain', text);
  const area = document.querySelector('.pane.active .xterm-helper-textarea');
  area.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
}"""


def click_cell(tab: Page, text: str, *, double: bool = False) -> None:
    """Click on the last place where the active terminal shows `text`, with the mouse moved there before."""
    found = tab.evaluate(
        """text => {
          const lines = dozlabScreenText().split('\\n');
          const row = lines.findLastIndex(line => line.includes(text));
          const box = document.querySelector('.pane.active .xterm-screen').getBoundingClientRect();
          const height = box.height / lines.length;
          return dozlabScreenState().then(({cols}) => [
            box.left + (lines[row].lastIndexOf(text) + 1.5) * box.width / cols, box.top + (row + 0.5) * height]);
        }""",
        text,
    )
    x, y = found
    tab.mouse.move(x - 30, y)
    tab.mouse.move(x, y, steps=4)
    if double:
        tab.mouse.dblclick(x, y)
    else:
        tab.mouse.click(x, y)


def test_settings_hold_at_once_and_after_a_reload(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.emulate_media(color_scheme="dark")
    open_live(tab, sidecar, guest)
    html = tab.locator("html")
    expect(html).to_have_attribute("data-theme", "dark")
    tab.emulate_media(color_scheme="light")
    expect(html).to_have_attribute("data-theme", "light")
    tab.emulate_media(contrast="more")
    expect(html).to_have_attribute("data-theme", "contrast")
    tab.emulate_media(contrast="no-preference")

    columns = "dozlabScreenState().then(state => state.cols)"
    before = tab.evaluate(columns)
    tab.get_by_role("button", name="Settings").click()
    panel = tab.get_by_role("complementary", name="Settings")
    expect(panel).to_be_visible()
    for name, theme in (("High contrast", "contrast"), ("Light", "light"), ("Dark", "dark")):
        panel.get_by_role("radio", name=name).check()
        expect(html).to_have_attribute("data-theme", theme)
    size = panel.get_by_label("Size")
    size.focus()
    for _ in range(6):
        tab.keyboard.press("ArrowRight")
    expect(panel.locator(".value").first).to_have_text("20 px")
    panel.get_by_label("Font", exact=True).fill("x; } body {")
    tab.keyboard.press("Tab")
    expect(panel.get_by_label("Font", exact=True)).to_have_attribute("aria-invalid", "true")
    panel.get_by_label("Font", exact=True).fill("DejaVu Sans Mono")
    panel.get_by_label("Shape").select_option("bar")
    panel.get_by_label("Width of characters").select_option("graphemes")
    shot(tab, "settings")
    tab.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    command(tab, "echo focus-$((5+5))", "focus-10")  # it is the terminal's again
    assert tab.evaluate(columns) < before
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    cursor_after = (
        """([text]) => dozlabScreenState().then(({content, cursor}) => content.includes(text) && cursor[0])"""
    )
    show = "clear; printf '\\033[5;1H%s\\033]2;{}\\007' '{}'; read\n"
    at_prompt(tab)
    tab.wait_for_function(
        "() => dozlabTerminal().unicode.activeVersion.endsWith('graphemes')"
    )  # loaded when it is chosen
    tab.keyboard.type(show.format("first", family))
    expect(tab.locator("#title")).to_have_text("first")
    assert tab.evaluate(cursor_after, [family]) == 2  # cells of a whole grapheme

    tab.reload()
    state(tab, "Live")
    expect(html).to_have_attribute("data-theme", "dark")
    assert tab.evaluate(columns) < before
    tab.get_by_role("button", name="Settings").click()
    expect(panel.get_by_label("Shape")).to_have_value("bar")
    panel.get_by_label("Width of characters").select_option("shell")
    panel.get_by_role("switch", name="Screen reader mode").check()
    expect(tab.locator(".xterm-accessibility")).to_be_attached()
    panel.get_by_role("button", name="Back to the defaults").click()
    expect(panel.get_by_label("Shape")).to_have_value("block")
    tab.get_by_role("button", name="Close panel").click()
    tab.keyboard.press("Enter")
    tab.keyboard.type(show.format("second", family + "\U0001f972"))
    expect(tab.locator("#title")).to_have_text("second")
    assert tab.evaluate(cursor_after, [family]) == 8  # three faces and a newer one, as glibc's wcwidth counts them


def test_programs_may_copy_and_never_read(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_live(tab, sidecar, guest)
    said = tab.locator("#said")
    text = base64.b64encode("h\u00e9llo \U0001f600".encode()).decode()
    at_prompt(tab)
    type_line(tab, f"printf '\\033]52;c;{text}\\007'")
    expect(said).to_have_text("A program has copied 8 characters.")
    assert tab.evaluate(CLIPBOARD) == "h\u00e9llo \U0001f600"
    command(tab, "printf '\\033]52;c;?\\007'; read -t 1 -n 4 got; echo \"[${#got}]\"", "[0]")
    tab.evaluate("navigator.clipboard.writeText('mine')")
    type_line(tab, "printf '\\033]52;c;%s\\007' $(head -c 150000 /dev/zero | base64 -w0)")
    expect(said).to_contain_text("more than 100 kB: nothing was copied")
    tab.reload()
    at_prompt(tab)
    screen_has(tab, "[0]")
    assert tab.evaluate(CLIPBOARD) == "mine"  # the replay has copied nothing

    command(tab, "echo selected-word", "selected-word")
    click_cell(tab, "selected-word", double=True)
    assert tab.evaluate(CLIPBOARD) == "mine"
    tab.keyboard.press("Control+Shift+C")
    expect(said).to_have_text("Copied.")
    assert tab.evaluate(CLIPBOARD) == "selected-word"
    tab.get_by_role("button", name="Settings").click()
    tab.get_by_role("switch", name="Copy what is selected").check()
    tab.get_by_role("switch", name="Programs may copy").uncheck()
    tab.keyboard.press("Escape")
    command(tab, "clear; echo another-one", "another-one")
    click_cell(tab, "another-one", double=True)
    until(tab, "navigator.clipboard.readText().then(text => text === 'another-one')")
    command(tab, f"printf '\\033]52;c;{text}\\007'; echo not-$((1+1))", "not-2")
    assert tab.evaluate(CLIPBOARD) == "another-one"


def test_a_paste_of_many_lines_is_shown_first(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    dialog = tab.get_by_role("dialog")
    tab.evaluate(PASTE, "echo one\necho two")  # bash has bracketed paste on
    screen_has(tab, "echo two")
    expect(dialog).to_have_count(0)
    tab.keyboard.press("Control+c")
    screen_has(tab, f"^C\n{PROMPT}")
    type_line(tab, "clear; echo re''ady; cat -v")
    screen_has(tab, "ready\n")
    until(tab, "dozlabScreenState().then(state => !state.modes.bracketedPasteMode)")
    tab.evaluate(PASTE, "rm <b>\n\x1b[201~evil\n")
    expect(dialog).to_contain_text("Paste 2 lines?")
    expect(dialog.locator("pre")).to_contain_text("rm <b>")
    shot(tab, "paste")
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    tab.evaluate(PASTE, "first\nsecond")
    dialog.get_by_role("button", name="Paste as one line").click()
    screen_has(tab, "first second")
    tab.keyboard.press("Enter")
    screen_has(tab, "first second\nfirst second")
    tab.evaluate(PASTE, "uno\ndos\x1b[201~")
    dialog.get_by_label("Paste without asking").check()
    dialog.get_by_role("button", name="Paste", exact=True).click()
    screen_has(tab, "dos[201~")
    tab.keyboard.press("Enter")
    screen_has(tab, "dos[201~\n")
    tab.evaluate(PASTE, "tres\ncuatro\n")
    screen_has(tab, "cuatro\n")
    expect(dialog).to_have_count(0)
    assert "rm" not in tab.evaluate("dozlabScreenText()")


def test_links_lead_to_http_only(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.add_init_script("window.opened = []; window.open = (url, ...more) => void opened.push([url, ...more])")
    open_live(tab, sidecar, guest)
    osc8 = "printf '\\033]8;;%s\\033\\\\%s\\033]8;;\\033\\\\\\n'"
    command(tab, f"clear; echo see https://example.org/plain; {osc8} https://example.org/osc8 good-link", "good-link")
    click_cell(tab, "https://example.org/plain")
    tab.wait_for_function("() => opened.length === 1")
    click_cell(tab, "good-link")
    tab.wait_for_function("() => opened.length === 2")
    links = f"{osc8} 'javascript:alert(1)' bad-link; {osc8} file:///etc/passwd file-link"
    command(tab, f"clear; {links}; echo ftp://x/y", "file-link\nftp://x/y")
    for text in ("bad-link", "file-link", "ftp://x/y"):
        click_cell(tab, text)
    options = "noopener,noreferrer"
    assert tab.evaluate("opened") == [
        ["https://example.org/plain", "_blank", options], ["https://example.org/osc8", "_blank", options],
    ]  # fmt: skip


def test_two_pages_of_one_browser_undo_nothing_of_each_other(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    open_live(tab, sidecar, guest)
    second = tab.context.new_page()
    second.goto(tab.url)
    at_prompt(second)
    for page in (tab, second):
        page.get_by_role("button", name="Settings").click()
    tab.get_by_role("radio", name="Light").check()
    expect(second.locator("html")).to_have_attribute("data-theme", "light")
    expect(second.get_by_role("radio", name="Light")).to_be_checked()
    second.get_by_role("switch", name="Blinks").uncheck()
    expect(tab.get_by_role("switch", name="Blinks")).not_to_be_checked()
    expect(tab.get_by_role("radio", name="Light")).to_be_checked()

    tab.locator(".tab-name").dblclick()
    tab.get_by_label("Name of the tab").fill("mine")
    tab.keyboard.press("Enter")
    second.keyboard.press("Control+Shift+S")  # which its page remembers, with no such name
    expect(second.locator(".tab-name")).to_have_text(["Terminal", "Terminal 2"])
    tab.reload()
    expect(tab.locator(".tab-name").first).to_have_text("mine")


def test_the_menu_copies_and_pastes(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_live(tab, sidecar, guest)
    tab.evaluate(WATCH, ["said", "#said"])

    def choose(name: str) -> None:
        tab.get_by_role("button", name="Menu").click()
        tab.get_by_role("menuitem", name=name).click()

    tab.keyboard.press("Control+Shift+C")
    tab.wait_for_function("() => said.join().includes('Nothing is selected')")
    command(tab, "clear; echo one-$((1+1))", "one-2")
    choose("Copy selection or screen")
    tab.wait_for_function("() => said.includes('Copied.')")
    assert "one-2\nguest$" in tab.evaluate(CLIPBOARD)
    tab.evaluate("navigator.clipboard.writeText('echo pasted-$((2+2))')")
    choose("Paste")
    screen_has(tab, "echo pasted")
    tab.keyboard.press("Enter")  # the focus is back in the terminal
    screen_has(tab, "pasted-4")
    at_prompt(tab)

    tab.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as on plain http
    choose("Paste")
    field = tab.get_by_role("dialog").get_by_label("What to paste")
    expect(field).to_be_focused()
    field.fill("echo by-hand-$((3+3))")
    tab.get_by_role("dialog").get_by_role("button", name="Paste").click()
    screen_has(tab, "echo by-hand")
    tab.keyboard.press("Enter")
    screen_has(tab, "by-hand-6")


def test_option_types_on_a_mac_unless_it_is_to_be_alt(tab: Page, sidecar: Sidecar, guest: Guest) -> None:
    tab.add_init_script("Object.defineProperty(navigator, 'platform', {get: () => 'MacIntel'})")
    open_live(tab, sidecar, guest)
    press = """() => {
      const area = document.querySelector('.pane.active .xterm-helper-textarea');
      const key = {key: '|', code: 'Digit7', altKey: true, bubbles: true, cancelable: true};
      area.dispatchEvent(new KeyboardEvent('keydown', {...key, keyCode: 55}));
      area.dispatchEvent(new KeyboardEvent('keypress', {...key, keyCode: 124, charCode: 124}));
    }"""  # Option and 7 of a German keyboard
    tab.keyboard.type("echo x ")
    tab.evaluate(press)
    type_line(tab, " tr x y")
    screen_has(tab, f"echo x | tr x y\ny\n{PROMPT}")
    tab.get_by_role("button", name="Settings").click()
    tab.get_by_role("switch", name="Option is Alt for programs").check()
    tab.wait_for_function("() => dozlabTerminal().options.macOptionIsMeta")
