"""The files panel: drop, question, list, breadcrumb, download, errors. OpenSSH's own SFTP server behind it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, FilePayload, Locator, Page, Route, expect

from tests.browser.conftest import WAIT, WATCH, Held, command, open_live, shot, state, typing_goes_to_the_terminal
from tests.unit.terminal_sidecar.conftest import Guest, Sidecar

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder in the guest with a few things in it."""
    folder = tmp_path / "labs"
    (folder / "one" / "deep").mkdir(parents=True)
    (folder / "notes.txt").write_text("old")
    (folder / "<b>bold\n.txt").write_text("harmless")
    return folder


def open_files(tab: Page, folder: Path) -> Locator:
    """Open the panel and walk to a folder of the guest by its names, from the root."""
    tab.get_by_role("button", name="Files", exact=True).click()
    panel = tab.locator("#drawer-body")
    panel.get_by_label("Folder", exact=True).get_by_role("button", name="/", exact=True).click()
    for name in folder.parts[1:]:
        panel.get_by_role("button", name=f"Open {name} (folder)", exact=True).click()
    expect(panel.locator(".crumb[aria-current]")).to_have_text(folder.name)
    return panel


DROP = """files => {
  const carried = new DataTransfer();
  for (const [name, text] of files) carried.items.add(new File([text], name));
  const stage = document.querySelector('.stage');
  for (const type of ['dragenter', 'dragover', 'drop'])
    stage.dispatchEvent(new DragEvent(type, {dataTransfer: carried, bubbles: true, cancelable: true}));
}"""


def test_drop_ask_list_and_download(tab: Page, sidecar: Sidecar, guest: Guest, home: Path) -> None:
    open_live(tab, sidecar, guest)
    panel = open_files(tab, home)
    names = panel.locator(".entry-name")
    expect(names).to_have_text(["one", "<b>bold\ufffd.txt", "notes.txt"])
    shot(tab, "files")

    tab.evaluate(DROP, [["fresh \u00e9.txt", "fresh"], ["notes.txt", "new"]])
    question = panel.locator(".upload[data-status=asking]")
    expect(question).to_contain_text("There is a file of this name")
    shot(tab, "files-question")
    expect(names).to_have_text(["one", "<b>bold\ufffd.txt", "fresh \u00e9.txt", "notes.txt"])
    assert (home / "notes.txt").read_text() == "old"
    question.get_by_role("button", name="Replace", exact=True).click()
    expect(panel.get_by_text("2 of 2 uploaded")).to_be_visible()
    assert (home / "notes.txt").read_text() == "new"
    assert (home / "fresh \u00e9.txt").read_text() == "fresh"
    panel.get_by_role("button", name="Clear").click()

    for name, text in (("notes.txt", "new"), ("<b>bold\ufffd.txt", "harmless")):
        with tab.expect_download() as download:
            panel.get_by_role("button", name=f"Download {name} (file)", exact=True).click()
        assert Path(download.value.path()).read_text() == text
    assert download.value.suggested_filename == "_b_bold_.txt"
    with tab.expect_download() as download:
        panel.get_by_role("button", name="Download one as tar").click()
    assert download.value.suggested_filename == "one.tar"

    panel.get_by_role("button", name="Open one (folder)").click()
    panel.get_by_role("button", name="New folder").click()
    tab.keyboard.type("a b")
    tab.keyboard.press("Enter")
    expect(names).to_have_text(["a b", "deep"])
    tab.keyboard.press("Escape")  # back in the shell
    command(tab, f"rmdir {home}/one/deep; echo gone-$((1+1))", "gone-2")
    tab.get_by_role("button", name="Files", exact=True).click()
    expect(names).to_have_text(["a b"])  # where one was


def test_what_is_done_while_a_folder_opens_is_done_there(tab: Page, sidecar: Sidecar, guest: Guest, home: Path) -> None:
    open_live(tab, sidecar, guest)
    panel = open_files(tab, home)
    held: list[Route] = []
    released: list[bool] = []
    tab.route(re.compile(r"/files\?path=.*/one$"), lambda route: route.continue_() if released else held.append(route))
    panel.get_by_role("button", name="Open one (folder)", exact=True).click()
    panel.get_by_label("Files to upload").set_input_files(FilePayload(name="new", mimeType="", buffer=b"x"))
    expect(panel.get_by_text("1 of 1 uploaded")).to_be_visible()
    assert (home / "new").read_text() == "x"  # what was shown when it was chosen
    panel.get_by_role("button", name="New folder").click()
    tab.keyboard.type("a b")
    tab.keyboard.press("Enter")
    for _ in range(WAIT // 50):
        if len(held) >= 3:  # opened, an upload finished, a folder made
            break
        tab.wait_for_timeout(50)
    released.append(True)
    for route in held:
        route.continue_()
    expect(panel.locator(".entry-name")).to_have_text(["a b", "deep"])
    assert (home / "one" / "a b").is_dir()


def test_a_folder_and_what_fails(tab: Page, sidecar: Sidecar, guest: Guest, home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    for number in range(5):
        (mine / "sub" / f"{number}").write_bytes(bytes(1000))
    open_live(tab, sidecar, guest)
    panel = open_files(tab, home)
    tab.evaluate(WATCH, ["said", "#said"])
    panel.get_by_label("Folder to upload").set_input_files(mine)
    expect(panel.get_by_text("5 of 5 uploaded")).to_be_visible()
    tab.wait_for_function("() => said.includes('5 of 5 uploaded.')")
    assert sorted(path.name for path in (home / "mine" / "sub").iterdir()) == ["0", "1", "2", "3", "4"]
    tab.evaluate(DROP, [["one", "a file that has a folder's name"]])
    expect(panel.locator(".upload[data-status=failed]")).to_contain_text("There is a folder of this name.")
    shot(tab, "files-failed")

    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64 << 20)
    tab.context.new_cdp_session(tab).send("Network.emulateNetworkConditions", {
        "offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 1 << 20
    })  # fmt: skip
    panel.get_by_label("Files to upload").set_input_files(big)
    tab.wait_for_function("() => document.querySelector('.upload progress')?.value > 0")
    shot(tab, "files-progress")
    tab.get_by_role("button", name="Stop big").click()
    expect(panel.get_by_text("5 of 7 uploaded")).to_be_visible()
    expect(panel.locator(".upload progress")).to_have_count(0)

    guest.tell("paused", paused="asked")
    state(tab, "Paused")
    panel.get_by_role("button", name="Show again").click()
    expect(panel.get_by_role("status")).to_have_text("The machine is paused: let it go on first.")
    guest.tell("running")
    expect(panel.locator(".files-note")).to_have_text("")  # by itself
    names = panel.locator(".entry-name")
    expect(names).to_have_text(["mine", "one", "<b>bold\ufffd.txt", "notes.txt"])
    tab.set_viewport_size({"width": 360, "height": 640})
    tab.wait_for_function("() => document.documentElement.scrollWidth <= 360")
    shot(tab, "files-narrow")


def test_keys_and_clicks_meet_what_was_meant(tab: Page, sidecar: Sidecar, guest: Guest, home: Path) -> None:
    open_live(tab, sidecar, guest)
    panel = open_files(tab, home)
    names, crumb = panel.locator(".entry-name"), panel.locator(".crumb[aria-current]")

    # The second click of a double click finds another list under the pointer.
    box = panel.get_by_role("button", name="Open one (folder)", exact=True).bounding_box()
    assert box is not None
    tab.mouse.move(box["x"] + 40, box["y"] + box["height"] / 2)
    tab.mouse.down(click_count=1)
    tab.mouse.up(click_count=1)
    expect(names).to_have_text(["deep"])
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.mouse.down(click_count=2)
    tab.mouse.up(click_count=2)
    tab.evaluate("fetch('health')")
    assert not any("/files?" in url for url in asked)
    expect(crumb).to_have_text("one")

    # A folder that opens late takes the focus from nobody.
    late = Held(tab, re.compile(r"/files\?path=.*/labs$"))
    panel.locator(".crumb").filter(has_text=re.compile("^labs$")).click()
    late.wait()
    tab.locator(".pane.active .screen").click()
    late.release()
    expect(crumb).to_have_text("labs")
    assert typing_goes_to_the_terminal(tab)

    # What was typed stays until it is done, and goes where one is by then.
    panel.get_by_role("button", name="New folder").click()
    tab.keyboard.type("notes.txt")
    tab.keyboard.press("Enter")
    expect(tab.locator("#said")).to_contain_text("notes.txt: ")
    field = panel.get_by_label("Name of the new folder")
    expect(field).to_have_value("notes.txt")
    panel.get_by_role("button", name="New folder").click()
    expect(field).to_have_value("notes.txt")
    panel.get_by_role("button", name="Open one (folder)", exact=True).click()
    expect(crumb).to_have_text("one")
    field.press("Enter")
    expect(names).to_have_text(["deep", "notes.txt"])
    expect(field).to_have_count(0)
    assert (home / "one" / "notes.txt").is_dir()

    # Keys stay on their row when an upload ends; the page asks before it goes and takes the upload along.
    there = panel.get_by_role("button", name="Open deep (folder)", exact=True)
    there.focus()
    said: list[str] = []

    def stay(dialog: Dialog) -> None:
        said.append(dialog.type)
        dialog.dismiss()

    tab.on("dialog", stay)
    sending = Held(tab, re.compile("/files/content"), "PUT")
    panel.get_by_label("Files to upload").set_input_files(FilePayload(name="new", mimeType="", buffer=b"x"))
    sending.wait()
    tab.evaluate("void setTimeout(() => location.reload())")
    for _ in range(WAIT // 50):
        if said:
            break
        tab.wait_for_timeout(50)
    assert said == ["beforeunload"]
    sending.release()
    expect(names).to_have_text(["deep", "notes.txt", "new"])
    expect(there).to_be_focused()
