"""`tightship access`, and a server's copy of the keys that follows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tightship.cli import main
from tightship.serve.access import INFER, Access
from tightship.serve.api_keys import ApiKeys
from tightship.serve.database import Database
from tightship.serve.failures import Unauthorised
from tightship.serve.settings import database_path


def test_a_key_that_the_command_prints_is_accepted_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(database_path(tmp_path))
    access = Access(ApiKeys(database))
    before = database.data_version()
    assert main(["access", "add", "phone", "--rate", "5", "--state", str(tmp_path)]) == 0
    key = capsys.readouterr().out.strip()
    assert database.data_version() != before  # which is how a server notices
    access.refresh()
    assert access.check(key.encode(), INFER).name == "phone"
    assert main(["access", "revoke", "phone", "--state", str(tmp_path)]) == 0
    access.refresh()
    with pytest.raises(Unauthorised):
        access.check(key.encode(), INFER)
    database.close()


def test_the_list_tells_all_but_the_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["access", "add", "phone", "--rate", "5", "--state", str(tmp_path)])
    main(["access", "add", "robot", "--scope", "admin", "--state", str(tmp_path)])
    keys = capsys.readouterr().out.split()
    assert main(["access", "list", "--json", "--state", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out)
    assert [(row["name"], row["scopes"], row["rate_per_s"]) for row in rows] == [
        ("phone", ["infer"], 5.0),
        ("robot", ["admin"], 0.0),
    ]
    assert not any(key in out or key.split("_")[2] in out for key in keys)
    assert main(["access", "list", "--state", str(tmp_path)]) == 0
    assert "phone" in capsys.readouterr().out


def test_what_cannot_be_done_ends_with_usages_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["access", "revoke", "nobody", "--state", str(tmp_path)]) == 2
    assert "no valid API key" in capsys.readouterr().err
    assert main(["access", "list", "--state", str(tmp_path)]) == 0
    assert "tightship access add" in capsys.readouterr().out
