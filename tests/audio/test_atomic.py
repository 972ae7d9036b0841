import errno
import hashlib

import pytest

from services.audio import atomic
from services.audio.atomic import atomic_file, publish_all


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def write(file, data=b"music", frames=3):
    with file.explain_errors():
        file.temporary.write_bytes(data)
    file.finish(frames)
    return file


def test_published_file_has_its_size_digest_and_frames(tmp_path):
    with atomic_file(tmp_path / "a" / "take.bin", "test") as file:
        write(file).publish()
    written = file.written_file
    assert written.path.read_bytes() == b"music"
    assert (written.bytes, written.frames) == (5, 3)
    assert written.sha256 == hashlib.sha256(b"music").hexdigest()


def test_known_digest_is_not_computed_again(tmp_path):
    with atomic_file(tmp_path / "take.bin", "test") as file:
        file.temporary.write_bytes(b"music")
        file.finish(0, sha256="known")
    assert file.written_file.sha256 == "known"


def test_unfinished_file_has_no_description_and_cannot_be_published(tmp_path):
    with atomic_file(tmp_path / "take.bin", "test") as file:
        file.temporary.write_bytes(b"music")
        with pytest.raises(RuntimeError, match="is not finished"):
            file.publish()
    assert not names_in(tmp_path)


def test_error_in_the_block_deletes_the_temporary_file(tmp_path):
    def interrupt():
        with atomic_file(tmp_path / "take.bin", "test") as file:
            file.temporary.write_bytes(b"mu")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not names_in(tmp_path)


def test_temporary_file_is_hidden_and_in_the_folder_of_the_target(tmp_path):
    with atomic_file(tmp_path / "take.bin", "test") as file:
        assert file.temporary.parent == tmp_path
        assert file.temporary.name.startswith(".")


def test_finish_without_a_temporary_file_is_explained(tmp_path):
    with atomic_file(tmp_path / "take.bin", "PNG") as file:  # noqa: SIM117 - the inner one raises
        with pytest.raises(
            RuntimeError, match=r"Could not write PNG file .*take\.bin: No such file"
        ):
            file.finish(0)


def test_withdraw_before_publishing_keeps_the_existing_file(tmp_path):
    (tmp_path / "take.bin").write_text("old")
    with atomic_file(tmp_path / "take.bin", "test") as file:
        write(file).withdraw()
    assert (tmp_path / "take.bin").read_text() == "old"


def test_withdraw_of_a_file_that_is_gone_is_accepted(tmp_path):
    with atomic_file(tmp_path / "take.bin", "test") as file:
        write(file).publish()
        (tmp_path / "take.bin").unlink()
        file.withdraw()
    assert not names_in(tmp_path)


def test_published_files_are_withdrawn_if_a_later_one_fails(tmp_path):
    with (
        atomic_file(tmp_path / "a.bin", "test") as first,
        atomic_file(tmp_path / "b.bin", "test") as second,
    ):
        write(first)
        write(second)
        second.temporary.unlink()
        with pytest.raises(RuntimeError, match=r"Could not write test file .*b\.bin"):
            publish_all([first, second])
    assert not names_in(tmp_path)


@pytest.mark.parametrize("code", sorted(atomic._ADVICE))
def test_every_known_error_ends_with_its_advice(tmp_path, code):
    with (
        pytest.raises(RuntimeError, match="Could not write WAV file") as caught,
        atomic.explain_disk_errors(tmp_path / "take.wav", "WAV"),
    ):
        raise OSError(code, "the reason")
    assert str(caught.value).endswith(f"the reason. {atomic._ADVICE[code]}")


def test_error_without_a_number_has_its_text_as_the_reason(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"it broke\. Choose another folder"),
        atomic.explain_disk_errors(tmp_path / "take.wav", "WAV"),
    ):
        raise OSError("it broke")


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(KeyError), atomic.explain_disk_errors(tmp_path / "take.wav", "WAV"):
        raise KeyError


def test_folder_that_cannot_be_created_is_explained(tmp_path, monkeypatch):
    def fail(_folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_make_folders", fail)
    with pytest.raises(RuntimeError, match="Free some space"), atomic_file(tmp_path / "x", "test"):
        pytest.fail("the block must not run")
