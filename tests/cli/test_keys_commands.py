"""`dgx-music keys`: create, list and revoke."""

import json

import pytest

pytestmark = pytest.mark.integration

FIELDS = ["id", "name", "created_at", "last_used_at", "revoked_at"]


def create(home, name="laptop"):
    return json.loads(home.call("keys", "create", name, "--json").stdout)


def test_key_is_alone_on_stdout_and_its_use_explained_on_stderr(home):
    made = home.call("keys", "create", "the studio's laptop")
    assert made.returncode == 0
    assert made.stdout.startswith("dgxm_")
    assert made.stdout.count("\n") == 1
    assert "Authorization: Bearer" in made.stderr
    assert made.stdout.strip() not in made.stderr


def test_new_key_in_json_has_its_secret_and_no_use_yet(home):
    made = create(home)
    assert list(made) == ["key", *FIELDS]
    assert (made["name"], made["last_used_at"], made["revoked_at"]) == ("laptop", None, None)


def test_list_without_keys_says_how_to_create_one(home):
    result = home.call("keys", "list")
    assert (result.returncode, result.stdout) == (0, "")
    assert "dgx-music keys create NAME" in result.stderr
    assert home.call("keys", "list", "--json").stdout == "[]\n"


def test_list_has_every_key_but_no_secret(home):
    first, second = create(home, "laptop"), create(home, "desk")
    home.call("keys", "revoke", "desk")
    listed = home.call("keys", "list", "--json").stdout
    rows = {row["name"]: row for row in json.loads(listed)}
    assert all(list(row) == FIELDS for row in rows.values())
    assert rows["laptop"]["revoked_at"] is None
    assert rows["desk"]["revoked_at"].endswith("Z")
    assert first["key"] not in listed
    assert second["key"] not in listed


def test_list_is_tab_separated_in_a_pipe_and_a_table_on_a_terminal(home):
    made = create(home)
    cells = home.call("keys", "list").stdout.removesuffix("\n").split("\t")
    assert cells == [made["id"], "laptop", made["created_at"], "never", ""]
    headings, row = home.call("keys", "list", width=100).stdout.splitlines()
    assert headings.split() == ["id", "name", "created", "last", "used", "revoked"]
    assert row.split() == [made["id"], "laptop", made["created_at"], "never"]


@pytest.mark.parametrize("by", ["id", "start", "name", "key"])
def test_key_is_revoked_by_any_of_its_names(home, by):
    made = create(home)
    given = made["id"][:6] if by == "start" else made[by]
    result = home.call("keys", "revoke", given)
    assert (result.returncode, result.stdout) == (0, "")
    assert f"Revoked the key {made['id']} of 'laptop'" in result.stderr
    assert made["key"] not in result.stderr


def test_revoked_key_in_json(home):
    made = create(home)
    revoked = json.loads(home.call("keys", "revoke", "laptop", "--json").stdout)
    assert list(revoked) == FIELDS
    assert revoked["id"] == made["id"]
    assert revoked["revoked_at"].endswith("Z")


def test_name_of_two_keys_revokes_neither(home):
    create(home), create(home)
    result = home.call("keys", "revoke", "laptop")
    assert (result.returncode, result.stdout) == (3, "")
    rows = json.loads(home.call("keys", "list", "--json").stdout)
    assert [row["revoked_at"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("revoke", "nobody"), 3),
        (("revoke", ""), 3),
        (("create", " "), 2),
        (("create", "a\nb"), 2),
        (("create", "x" * 1000), 2),
        (("create",), 2),
    ],
)
def test_impossible_key_is_refused(home, arguments, code):
    result = home.call("keys", *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr


def test_only_the_first_key_is_created_with_a_warning(home):
    warning = "a server on this machine needs a key too"
    assert warning in home.call("keys", "create", "laptop").stderr
    assert warning not in home.call("keys", "create", "desk").stderr


def test_authentication_is_disabled_by_deleting_every_key(home):
    create(home, "laptop"), create(home, "desk")
    home.call("keys", "revoke", "desk")
    refused = home.call("keys", "delete-all")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert len(json.loads(home.call("keys", "list", "--json").stdout)) == 2
    done = home.call("keys", "delete-all", "--yes")
    assert (done.returncode, done.stdout) == (0, "")
    assert "Deleted 2 API keys. Restart" in done.stderr
    assert home.call("keys", "list", "--json").stdout == "[]\n"
    assert "There are no keys" in home.call("keys", "delete-all").stderr


def test_answer_no_keeps_the_keys(home):
    create(home)
    assert home.call("keys", "delete-all", answer="n\n").returncode == 1
    assert len(json.loads(home.call("keys", "list", "--json").stdout)) == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DGX_MUSIC_API_KEY", "the-operators-key", "DGX_MUSIC_API_KEY is set"),
        ("DGX_MUSIC_API_HOST", "0.0.0.0", "Other machines can reach 0.0.0.0"),
    ],
)
def test_authentication_stays_where_a_server_would_ask_for_a_key(home, name, value, said):
    create(home)
    home.environment[name] = value
    for command in (("keys", "delete-all", "--yes"), ("db", "reset", "--yes", "--keys")):
        refused = home.call(*command)
        assert refused.returncode == 2
        assert said in refused.stderr
    assert len(json.loads(home.call("keys", "list", "--json").stdout)) == 1
