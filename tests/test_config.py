"""Settings: where they come from, and what is said about a bad one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import config
from services.config import Settings, default_home, load_settings, variable_of
from services.errors import SettingsError
from services.storage import database_file

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home folder, in an environment without any other setting."""
    for name in list(os.environ):
        if name.startswith("DGX_MUSIC_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("DGX_MUSIC_HOME", str(folder))
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As installed from a wheel, with the user's data folder below `tmp_path`."""
    monkeypatch.delenv("DGX_MUSIC_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setattr(config, "find_checkout", lambda: None)


def test_the_defaults_are_those_of_the_contract(home):
    settings = load_settings(None)
    assert settings.database_url == f"sqlite:///{home}/data/generations.db"
    assert settings.output_dir == home / "data/outputs"
    assert settings.models_dir == home / "data/models"
    assert settings.model_name == "auto"
    assert settings.use_gpu is True
    assert settings.max_retries == 3
    assert settings.retry_delay_seconds == 1.0
    assert settings.rate_limit_enabled is True
    assert settings.rate_limit_per_minute == 10
    assert settings.target_lufs == -16.0
    assert (settings.api_host, settings.api_port) == ("127.0.0.1", 8000)
    assert settings.api_key is None


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(home, monkeypatch):
    env_file = home / ".env"
    env_file.write_text(
        "DGX_MUSIC_API_PORT=9000\nDGX_MUSIC_MAX_RETRIES=1\nDATABASE_URL=sqlite:///a.db\n"
    )
    monkeypatch.setenv("DGX_MUSIC_API_PORT", "9001")
    settings = load_settings()
    assert settings.api_port == 9001
    assert settings.max_retries == 1
    assert settings.database_url == f"sqlite:///{home}/a.db"


def test_the_environment_is_read_when_asked_and_not_before(monkeypatch):
    before = load_settings(None)
    monkeypatch.setenv("DGX_MUSIC_MODEL_NAME", "composer")
    assert before.model_name == "auto"
    assert load_settings(None).model_name == "composer"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DGX_MUSIC_TARGET_LUFS", "loud"),
        ("DGX_MUSIC_TARGET_LUFS", "nan"),
        ("DGX_MUSIC_TRUE_PEAK_DBTP", "3"),
        ("DGX_MUSIC_API_PORT", "70000"),
        ("DGX_MUSIC_MAX_RETRIES", "-1"),
        ("DGX_MUSIC_BIT_DEPTH", "PCM_8"),
        ("DGX_MUSIC_LOG_LEVEL", "LOUD"),
        ("DATABASE_URL", " "),
    ],
)
def test_a_bad_value_names_its_variable_and_the_value(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        load_settings(None)
    assert repr(value) in str(caught.value)


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_TARGET_LUF", "-14")
    with pytest.raises(SettingsError, match=r"TARGET_LUF is not a setting.*DGX_MUSIC_TARGET_LUFS"):
        load_settings(None)


def test_an_unknown_line_of_the_file_is_refused_only_under_our_prefix(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text("OTHER_TOOL=1\n")
    assert load_settings(env_file).api_port == 8000
    env_file.write_text("DGX_MUSIC_PORT=1\n")
    with pytest.raises(SettingsError, match="DGX_MUSIC_PORT"):
        load_settings(env_file)


def test_a_file_that_is_not_text_is_refused(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_bytes(b"\xff\xfe\x00DGX")
    with pytest.raises(SettingsError, match=r"\.env"):
        load_settings(env_file)


def test_the_api_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_API_KEY", "secret-value")
    assert "secret-value" not in repr(load_settings(None))


def test_every_setting_is_described_and_has_a_variable():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert variable_of(name) == "DATABASE_URL" or variable_of(name).startswith("DGX_MUSIC_")


def test_importing_the_settings_reads_nothing():
    program = (
        "import os, sys; os.environ['DGX_MUSIC_API_PORT'] = 'broken'\n"
        "import services.config, services.jobs.service"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_line_of_the_file_that_is_no_setting_is_named(tmp_path):
    env_file = tmp_path / ".env"
    env_file.write_text('DGX_MUSIC_API_PORT=9000\nDGX_MUSIC_TARGET_LUFS="-14\n')
    with pytest.raises(SettingsError, match=r"\.env, line 2"):
        load_settings(env_file)


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path):
    with pytest.raises(SettingsError, match="not a file"):
        load_settings(tmp_path)


def test_the_home_folder_may_be_written_as_a_tilde_and_a_blank_folder_not_at_all(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_OUTPUT_DIR", "~/music")
    assert load_settings(None).output_dir == Path.home() / "music"
    monkeypatch.setenv("DGX_MUSIC_OUTPUT_DIR", " ")
    with pytest.raises(SettingsError, match="DGX_MUSIC_OUTPUT_DIR: must not be empty"):
        load_settings(None)


def test_the_one_variable_without_the_prefix_is_hinted_at(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_DATABASE_URL", "sqlite:///a.db")
    with pytest.raises(SettingsError, match=r"Did you mean DATABASE_URL\?"):
        load_settings(None)


def test_the_checkout_is_home_whatever_the_current_folder_holds(tmp_path, monkeypatch):
    monkeypatch.delenv("DGX_MUSIC_HOME")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "generations.db").touch()
    monkeypatch.chdir(tmp_path)
    assert load_settings(None).home == ROOT
    assert default_home() == (ROOT, "the checkout")


@pytest.mark.usefixtures("installed")
def test_an_installed_program_is_at_home_in_a_folder_with_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings(None).home == tmp_path / "share" / "dgx-music"
    assert default_home()[1] == "your data folder"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "generations.db").touch()
    assert load_settings(None).home == tmp_path
    assert "generations.db" in default_home()[1]


@pytest.mark.usefixtures("installed")
def test_a_deleted_current_folder_is_no_home(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert load_settings().home == tmp_path / "share" / "dgx-music"


@pytest.mark.usefixtures("installed")
def test_an_empty_home_variable_counts_as_unset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGX_MUSIC_HOME", "")
    assert load_settings().home == tmp_path / "share" / "dgx-music"


def test_a_relative_home_is_taken_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGX_MUSIC_HOME", "studio")
    settings = load_settings(None)
    monkeypatch.chdir("/")
    assert settings.output_dir == tmp_path / "studio" / "data" / "outputs"


@pytest.mark.parametrize("place", ["the environment", ".env"])
def test_a_relative_setting_is_taken_from_the_home_folder(home, tmp_path, monkeypatch, place):
    given = {
        "DGX_MUSIC_OUTPUT_DIR": "takes",
        "DGX_MUSIC_MODELS_DIR": "../weights",
        "DATABASE_URL": "sqlite:///rows.db",
    }
    if place == ".env":
        (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in given.items()))
    else:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.output_dir == home / "takes"
    assert settings.models_dir.resolve() == tmp_path / "weights"
    assert settings.database_url == f"sqlite:///{home}/rows.db"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:////srv/music.db", "sqlite:////srv/music.db"),
        ("sqlite:///~/music.db", f"sqlite:///{Path.home()}/music.db"),
        ("sqlite+pysqlite:///a.db", "sqlite+pysqlite:///HOME/a.db"),
        ("sqlite:///a.db?mode=ro", "sqlite:///HOME/a.db?mode=ro"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:a.db?uri=true", "sqlite:///file:a.db?uri=true"),
        ("sqlite://", "sqlite://"),
        ("postgresql://me:pw@host/music", "postgresql://me:pw@host/music"),
    ],
)
def test_only_the_path_of_a_database_file_becomes_absolute(home, monkeypatch, given, expected):
    monkeypatch.setenv("DATABASE_URL", given)
    assert load_settings(None).database_url == expected.replace("HOME", str(home))


def test_only_the_env_file_of_the_home_folder_is_read(home, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("DATABASE_URL=postgresql://another/program\n")
    (home / ".env").write_text("DGX_MUSIC_API_PORT=9000\n")
    monkeypatch.chdir(tmp_path)
    settings = load_settings()
    assert settings.api_port == 9000
    assert settings.database_url.startswith("sqlite:///")


def test_the_env_file_cannot_move_the_home_folder_that_it_is_in(home):
    (home / ".env").write_text("DGX_MUSIC_HOME=/elsewhere\n")
    with pytest.raises(SettingsError, match=r"\.env: DGX_MUSIC_HOME .* in the environment"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "reason"), [("/what?/home", "question mark"), ("~nobody-here/x", "no such home")]
)
def test_an_impossible_home_is_refused(monkeypatch, given, reason):
    monkeypatch.setenv("DGX_MUSIC_HOME", given)
    with pytest.raises(SettingsError, match=f"DGX_MUSIC_HOME: .*{reason}"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("api_allowed_hosts", "Studio.local, 10.0.0.1", ("studio.local", "10.0.0.1")),
        ("api_allowed_hosts", "[::1],*", ("::1", "*")),
        ("api_trusted_proxies", "10.0.0.1, 10.1.2.3/8", ("10.0.0.1/32", "10.0.0.0/8")),
        ("api_trusted_proxies", "::1", ("::1/128",)),
        ("file_store", "s3://studio/takes/", "s3://studio/takes"),
        ("target_lufs", " OFF ", None),
    ],
)
def test_value_is_read_into_its_normal_form(monkeypatch, name, given, expected):
    monkeypatch.setenv(variable_of(name), given)
    assert getattr(load_settings(None), name) == expected


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("api_allowed_hosts", "http://studio.local", "without a scheme"),
        ("api_allowed_hosts", "studio.local:80", "without a scheme or port"),
        ("api_allowed_hosts", "a b", "separated by commas"),
        ("api_trusted_proxies", "studio.local", "addresses or networks"),
        ("api_trusted_proxies", "10.0.0.0/40", "addresses or networks"),
        ("file_store", "s3://studio/../takes", "s3://bucket"),
        ("file_store", "gs://studio", "s3://bucket"),
        ("api_key", "two words", "printable ASCII"),
        ("api_key", "schlüssel", "printable ASCII"),
    ],
)
def test_impossible_value_is_refused_with_the_reason(monkeypatch, name, given, reason):
    monkeypatch.setenv(variable_of(name), given)
    with pytest.raises(SettingsError, match=f"{variable_of(name)}: .*{reason}") as caught:
        load_settings(None)
    assert name != "api_key" or given not in str(caught.value)


def test_several_bad_values_are_reported_together(monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_API_PORT", "70000")
    monkeypatch.setenv("DGX_MUSIC_MAX_RETRIES", "-1")
    with pytest.raises(SettingsError) as caught:
        load_settings(None)
    assert "DGX_MUSIC_MAX_RETRIES" in str(caught.value)
    assert "DGX_MUSIC_API_PORT" in str(caught.value)


def test_env_file_that_cannot_be_read_is_refused(home, monkeypatch):
    (home / ".env").write_text("DGX_MUSIC_API_PORT=9000\n")

    def deny(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    # Permissions do not bind the superuser.
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(SettingsError, match=r"\.env cannot be read: Permission denied"):
        load_settings()


@pytest.mark.parametrize("name", ["p%20q", "a#b%41", "with space", "100%", "caf\u00e9"])
def test_the_database_is_in_a_home_folder_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("DGX_MUSIC_HOME", str(tmp_path / name))
    settings = load_settings(None)
    assert database_file(settings.database_url) == tmp_path / name / "data" / "generations.db"
    monkeypatch.setenv("DATABASE_URL", "sqlite:///own%20name.db")
    assert database_file(load_settings(None).database_url) == tmp_path / name / "own name.db"


def test_an_absolute_database_url_is_taken_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("DGX_MUSIC_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "sqlite:////srv/music%2541/a.db")
    assert database_file(load_settings(None).database_url) == Path("/srv/music%41/a.db")


def test_a_relative_home_in_a_deleted_folder_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("DGX_MUSIC_HOME", "music")
    with pytest.raises(SettingsError, match="the current folder does not exist"):
        load_settings(None)
