"""What a new editor's home starts with. Files that exist are never touched: they are the learner's."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

VSCODE_SETTINGS: dict[str, object] = {
    "telemetry.telemetryLevel": "off",
    "telemetry.feedback.enabled": False,
    "update.mode": "none",
    "update.showReleaseNotes": False,
    "extensions.autoCheckUpdates": False,
    "extensions.autoUpdate": False,
    "extensions.ignoreRecommendations": True,
    "workbench.enableExperiments": False,
    "workbench.settings.enableNaturalLanguageSearch": False,
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.welcomePage.walkthroughs.openOnInstall": False,
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "chat.disableAIFeatures": True,
    "chat.commandCenter.enabled": False,
    "chat.agent.enabled": False,
    "security.workspace.trust.enabled": False,
    "git.openRepositoryInParentFolders": "never",
    "terminal.integrated.defaultProfile.linux": "bash",
    "terminal.integrated.suggest.enabled": False,
    "files.watcherExclude": {"**/.git/objects/**": True, "**/node_modules/**": True},
}
"""User settings; keys are Code 1.139's (its bundle's configuration registry)."""

BASHRC = """\
# Yours to change: dozlab writes this file only when it is missing.
case $- in *i*) ;; *) return ;; esac
PS1='\\[\\e[1;32m\\]\\u@\\h\\[\\e[0m\\]:\\[\\e[1;34m\\]\\w\\[\\e[0m\\]\\$ '
HISTCONTROL=ignoreboth
alias ls='ls --color=auto' ll='ls -l' grep='grep --color=auto'
[ -r /usr/share/bash-completion/bash_completion ] && . /usr/share/bash-completion/bash_completion
"""

USER_DATA = Path(".local/share/code-server")


def seed(home: Path, *, plugins: str = "") -> None:
    """Write the first settings into a home.

    Links are never followed: a learner may have put one there.

    :param plugins: folder of Docker's client plugins where the client does not find them by itself
    """
    for folder in (USER_DATA / "User", Path(".config/code-server"), Path(".docker")):
        (home / folder).mkdir(parents=True, exist_ok=True)
    _write_new(home / USER_DATA / "User/settings.json", json.dumps(VSCODE_SETTINGS, indent=4) + "\n")
    _write_new(home / ".config/code-server/config.yaml", "auth: password  # which one: the session's values\n")
    _write_new(home / ".bashrc", BASHRC)
    _write_new(home / ".profile", "[ -r ~/.bashrc ] && . ~/.bashrc\n")
    if plugins:
        _write_new(home / ".docker/config.json", json.dumps({"cliPluginsExtraDirs": [plugins]}, indent=4) + "\n")


def _write_new(path: Path, text: str) -> None:
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(text)
