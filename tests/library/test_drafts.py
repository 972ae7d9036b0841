"""The unfinished files of attempts."""

from pathlib import Path

import pytest

from services.library.drafts import draft_path, remove_take_and_drafts, rename_draft


def test_the_drafts_of_a_take_are_removed_with_it_and_no_others(tmp_path):
    final = tmp_path / "2026" / "11" / "21" / "abc.wav"
    mine, another = (Path(draft_path(final, nonce)) for nonce in ("one", "two"))
    neighbour = Path(draft_path(final.with_name("abcd.wav"), "one"))
    for draft in (mine, another, neighbour):
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"audio")
    rename_draft(mine, final)
    assert final.read_bytes() == b"audio"
    rename_draft(mine, final)
    remove_take_and_drafts(final)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [neighbour]
    with pytest.raises(FileNotFoundError):
        rename_draft(mine, final)
