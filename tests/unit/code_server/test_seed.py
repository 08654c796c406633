"""The first files of a home. Mirrors code_server/seed.py."""

from __future__ import annotations

import json
from pathlib import Path

from dozlab.code_server.seed import USER_DATA, seed


def test_writes_settings_once(tmp_path: Path) -> None:
    seed(tmp_path)
    file = tmp_path / USER_DATA / "User/settings.json"
    assert json.loads(file.read_text())["chat.disableAIFeatures"] is True
    file.write_text("{}")
    seed(tmp_path)
    assert file.read_text() == "{}"
    assert not (tmp_path / ".docker/config.json").exists()


def test_follows_no_link_that_a_learner_left(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside"
    home.mkdir()
    (home / ".bashrc").symlink_to(outside)
    seed(home, plugins="/plugins")
    assert not outside.exists()
    assert json.loads((home / ".docker/config.json").read_text()) == {"cliPluginsExtraDirs": ["/plugins"]}
